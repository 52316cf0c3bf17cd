//! The configuration: built-in defaults, under a file, under the environment, under flags.
//!
//! [`Settings`] is what a person can say, in a file or as flags; [`Config`] is the whole truth that the daemon runs on.
//! A key that is unknown or malformed is refused, never ignored.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::cli::connect::default_socket_here;

/// What can be said of the daemon. Every flag is also `NOXD_…` in the environment and a key of the file.
#[derive(clap::Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the store and the files of executions are [default: /var/lib/noxd as root, else ~/.local/share/noxd]
    #[arg(long, env = "NOXD_DATA_DIR", value_name = "PATH")]
    pub data_dir: Option<PathBuf>,
    /// The TCP address to listen on, or `none` [default: 127.0.0.1:4690]
    #[arg(long, env = "NOXD_LISTEN", value_name = "ADDR")]
    pub listen: Option<String>,
    /// The Unix socket to listen on, or `none` [default: $XDG_RUNTIME_DIR/noxd/noxd.sock]
    #[arg(long, env = "NOXD_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Listen on an address that other machines can reach, without TLS or authentication
    #[arg(long, env = "NOXD_INSECURE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub insecure: Option<bool>,
    /// Most tasks running at once [default: 64]
    #[arg(long, env = "NOXD_CONCURRENCY_LIMIT", value_name = "N")]
    pub concurrency_limit: Option<u32>,
    /// Seconds that a process has between SIGTERM and SIGKILL [default: 10]
    #[arg(long, env = "NOXD_TERMINATION_GRACE", value_name = "SECONDS")]
    pub termination_grace: Option<f64>,
    /// Seconds that running tasks have to end by themselves at shutdown [default: 10]
    #[arg(long, env = "NOXD_DRAIN_TIMEOUT", value_name = "SECONDS")]
    pub drain_timeout: Option<f64>,
    /// MiB of output kept per attempt; more is counted and marked [default: 64]
    #[arg(long, env = "NOXD_LOG_CAP", value_name = "MIB")]
    pub log_cap: Option<u64>,
    /// MiB of cache for the store's older rows [default: 8]
    #[arg(long, env = "NOXD_CACHE", value_name = "MIB")]
    pub cache: Option<usize>,
    /// What noxd tells at standard error, such as `info` or `noxd=debug` [default: info]
    #[arg(long, env = "NOXD_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// What the daemon runs on.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is; absolute.
    pub data_dir: PathBuf,
    /// The TCP address, if any.
    pub listen: Option<SocketAddr>,
    /// The Unix socket, if any.
    pub socket: Option<PathBuf>,
    /// Whether an address that is not loopback is allowed.
    pub insecure: bool,
    /// Most tasks running at once.
    pub concurrency_limit: u32,
    /// Between SIGTERM and SIGKILL.
    pub termination_grace: Duration,
    /// How long running tasks have to end by themselves at shutdown.
    pub drain_timeout: Duration,
    /// Bytes of output kept per attempt.
    pub log_cap: u64,
    /// Bytes of cache for older rows.
    pub cache_bytes: usize,
    /// What is logged.
    pub log: String,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration {} is wrong: {source}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be.
    #[error("`{key}` cannot be {value}: {why}")]
    Value {
        /// Which.
        key: &'static str,
        /// What it is.
        value: String,
        /// Why not.
        why: String,
    },
}

/// Where noxd listens if nobody says otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:4690";
/// Most tasks at once if nobody says otherwise: enough to keep two cores busy with programs that wait for the network.
pub const DEFAULT_CONCURRENCY_LIMIT: u32 = 64;
/// Seconds between SIGTERM and SIGKILL if nobody says otherwise.
pub const DEFAULT_GRACE_SECONDS: f64 = 10.0;

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it cannot be read or has a key or value that is unknown, with line and column.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_path_buf(), source })?;
        toml::from_str(&text)
            .map_err(|source| ConfigError::Malformed { path: path.to_path_buf(), source: Box::new(source) })
    }

    /// What is said here, and what `below` says where nothing is said here.
    pub fn over(self, below: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(below.data_dir),
            listen: self.listen.or(below.listen),
            socket: self.socket.or(below.socket),
            insecure: self.insecure.or(below.insecure),
            concurrency_limit: self.concurrency_limit.or(below.concurrency_limit),
            termination_grace: self.termination_grace.or(below.termination_grace),
            drain_timeout: self.drain_timeout.or(below.drain_timeout),
            log_cap: self.log_cap.or(below.log_cap),
            cache: self.cache.or(below.cache),
            log: self.log.or(below.log),
        }
    }

    /// The whole truth.
    ///
    /// # Errors
    /// A value that cannot be.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let limit = self.concurrency_limit.unwrap_or(DEFAULT_CONCURRENCY_LIMIT);
        if limit == 0 {
            return Err(wrong("concurrency_limit", &limit, "nothing could ever run; it is at least 1"));
        }
        let data_dir = self.data_dir.unwrap_or_else(default_data_dir);
        let data_dir = std::path::absolute(&data_dir).map_err(|error| wrong("data_dir", &data_dir.display(), error))?;
        let socket = self.socket.unwrap_or_else(default_socket_here);
        Ok(Config {
            data_dir,
            listen: listen_address(self.listen.as_deref().unwrap_or(DEFAULT_LISTEN))?,
            socket: (socket.as_os_str() != "none").then_some(socket),
            insecure: self.insecure.unwrap_or(false),
            concurrency_limit: limit,
            termination_grace: seconds("termination_grace", self.termination_grace.unwrap_or(DEFAULT_GRACE_SECONDS))?,
            drain_timeout: seconds("drain_timeout", self.drain_timeout.unwrap_or(10.0))?,
            log_cap: mebibytes("log_cap", self.log_cap.unwrap_or(64))?,
            cache_bytes: usize::try_from(mebibytes("cache", self.cache.unwrap_or(8) as u64)?)
                .map_err(|error| wrong("cache", &"so large", error))?,
            log: self.log.unwrap_or_else(|| "info".into()),
        })
    }
}

fn wrong(key: &'static str, value: &dyn std::fmt::Display, why: impl std::fmt::Display) -> ConfigError {
    ConfigError::Value { key, value: value.to_string(), why: why.to_string() }
}

fn listen_address(text: &str) -> Result<Option<SocketAddr>, ConfigError> {
    if text == "none" {
        return Ok(None);
    }
    let parsed =
        text.parse().map_err(|_| wrong("listen", &text, "use an address with a port, such as 127.0.0.1:4690, or none"));
    parsed.map(Some)
}

fn seconds(key: &'static str, value: f64) -> Result<Duration, ConfigError> {
    const MOST: f64 = 86_400.0;
    if !(0.0..=MOST).contains(&value) {
        return Err(wrong(key, &value, "it is between 0 and 86400 seconds"));
    }
    Ok(Duration::from_secs_f64(value))
}

fn mebibytes(key: &'static str, value: u64) -> Result<u64, ConfigError> {
    const MOST: u64 = 1 << 20;
    if value == 0 || value > MOST {
        return Err(wrong(key, &value, "it is between 1 and 1048576 MiB"));
    }
    Ok(value << 20)
}

fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/noxd".into();
    }
    user_directory("XDG_DATA_HOME", ".local/share").join("noxd")
}

/// Where `noxd run` keeps its runs.
pub fn runs_dir() -> PathBuf {
    user_directory("XDG_STATE_HOME", ".local/state").join("noxd/runs")
}

fn user_directory(variable: &str, below_home: &str) -> PathBuf {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    from(variable).or_else(|| from("HOME").map(|home| home.join(below_home))).unwrap_or_else(|| "/tmp".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_over_the_file_and_the_file_over_defaults() {
        let file: Settings = toml::from_str("concurrency_limit = 3\nlisten = \"none\"\n").expect("a file");
        let flags = Settings { concurrency_limit: Some(5), ..Settings::default() };
        let config = flags.over(file).into_config().expect("a configuration");
        assert_eq!((config.concurrency_limit, config.listen), (5, None));
        assert_eq!(config.termination_grace, Duration::from_secs(10));
        assert!(config.data_dir.is_absolute());
    }

    #[test]
    fn the_example_has_every_key_with_its_default() {
        let example = include_str!("../deploy/noxd.toml");
        let is_key = |line: &&str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', '`']));
        let said: String = example
            .lines()
            .map(|line| line.trim_start_matches("# "))
            .filter(is_key)
            .fold(String::new(), |said, line| said + line + "\n");
        let told = toml::from_str::<Settings>(&said).expect("every key is known");
        let Settings { data_dir: Some(data_dir), socket: Some(socket), .. } = &told else { panic!("{said}") };
        let (data_dir, socket) = (Some(data_dir.clone()), Some(socket.clone()));
        let defaults = Settings { data_dir, socket, ..Settings::default() }.into_config().expect("defaults");
        assert_eq!(said.lines().count(), 10, "{said}");
        assert_eq!(format!("{:?}", told.into_config().expect("a configuration")), format!("{defaults:?}"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_key() {
        let refused = |settings: Settings| settings.into_config().expect_err("refused").to_string();
        let limit = Settings { concurrency_limit: Some(0), ..Settings::default() };
        assert!(refused(limit).starts_with("`concurrency_limit` cannot be 0: nothing could ever run"));
        let listen = Settings { listen: Some("here".into()), ..Settings::default() };
        assert!(refused(listen).contains("127.0.0.1:4690"));
        let grace = Settings { termination_grace: Some(-1.0), ..Settings::default() };
        assert!(refused(grace).contains("between 0 and 86400"));
        assert!(toml::from_str::<Settings>("concurency_limit = 3").is_err(), "unknown keys are refused");
    }
}
