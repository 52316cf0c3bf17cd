//! How expressions see [`Facts`]: the look-up of paths, and minijinja with what it may do (S-COND-3, S-DATA-2).
//!
//! minijinja bounds by its fuel how many instructions run and how much text they make. What fuel does not bound is not
//! there: no functions, no methods, no loops, only the filters and tests listed here, and lists that cannot be
//! multiplied. What `expression` refuses when a definition is stored closes the rest.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use minijinja::{
    Environment, Error, ErrorKind, UndefinedBehavior, Value,
    value::{DynObject, Enumerator, Object, ObjectRepr, ValueKind},
};

use super::{
    facts::Facts,
    filter,
    ids::Timestamp,
    json::{Json, List, Map},
    lexer::Path,
};

/// Facts in the form in which expressions look at them. Outputs are parsed when they are first read.
pub struct Scope(Arc<Known>);

#[derive(Debug)]
struct Known {
    tasks: Arc<Tasks>,
    inputs: Lazy,
    execution: Json,
}

#[derive(Debug)]
struct Tasks(BTreeMap<String, Arc<Task>>);

/// A task: its output, and everything else about it.
#[derive(Debug)]
struct Task {
    output: Option<Lazy>,
    rest: Json,
}

/// JSON text that is parsed at most once.
struct Lazy {
    text: Arc<str>,
    parsed: OnceLock<Result<Json, String>>,
}

impl fmt::Debug for Lazy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of JSON", self.text.len())
    }
}

impl Lazy {
    fn new(text: &Arc<str>) -> Self {
        Self { text: Arc::clone(text), parsed: OnceLock::new() }
    }

    fn json(&self) -> Result<&Json, &String> {
        self.parsed.get_or_init(|| Json::parse(&self.text)).as_ref()
    }
}

impl Scope {
    /// Takes what is known.
    pub fn new(facts: &Facts<'_>) -> Self {
        let notes = |notes: &BTreeMap<String, String>| {
            Json::map(notes.iter().map(|(key, value)| (key.as_str(), Json::text(value))))
        };
        let tasks = facts.tasks.iter().map(|(id, task)| {
            let mut rest = vec![
                ("status", Json::text(task.status.as_str())),
                ("metadata", notes(task.metadata)),
                ("attempts", Json::Integer(task.attempts.into())),
            ];
            rest.extend(task.exit_code.map(|code| ("exit_code", Json::Integer(code.into()))));
            let task = Task { output: task.output.as_ref().map(Lazy::new), rest: Json::map(rest) };
            ((*id).to_string(), Arc::new(task))
        });
        let execution = Json::map([
            ("id", Json::text(&facts.execution.id.to_string())),
            ("workflow_id", Json::text(facts.execution.workflow.as_str())),
            ("version", i64::try_from(facts.execution.version).map_or(Json::Null, Json::Integer)),
            ("started_at", Json::text(&rfc3339(facts.execution.started_at))),
            ("labels", notes(facts.execution.labels)),
        ]);
        let tasks = Arc::new(Tasks(tasks.collect()));
        Self(Arc::new(Known { tasks, inputs: Lazy::new(&facts.inputs), execution }))
    }

    /// The output of a task.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn output(&self, id: &str) -> Result<&Json, String> {
        let output = self.task(id)?.output.as_ref().ok_or_else(|| format!("task `{id}` left no output"))?;
        output.json().map_err(|words| format!("the output of `{id}` cannot be read: {words}"))
    }

    /// Something about a task other than its output.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn attribute(&self, id: &str, name: &str) -> Result<&Json, String> {
        self.task(id)?.rest.member(name).ok_or_else(|| format!("task `{id}` has no `{name}`"))
    }

    fn task(&self, id: &str) -> Result<&Task, String> {
        self.0.tasks.0.get(id).map(AsRef::as_ref).ok_or_else(|| format!("nothing is known of task `{id}`"))
    }

    /// Refuses paths to tasks of which nothing is known: to minijinja they would be values like any missing one.
    ///
    /// # Errors
    /// Names the task.
    pub fn knows(&self, paths: &[Path<'_>]) -> Result<(), String> {
        let tasks = paths.iter().filter(|path| path.root == "tasks");
        tasks.filter_map(|path| path.steps.first()).try_for_each(|id| self.task(id).map(|_| ()))
    }

    /// What a path leads to, as far as it can be told without computing.
    ///
    /// # Errors
    /// Says where it leads nowhere.
    pub fn look_up(&self, path: &Path<'_>) -> Result<&Json, String> {
        let (mut value, steps) = match (path.root, path.steps.as_slice()) {
            ("tasks", [id, "output", steps @ ..]) => (self.output(id)?, steps),
            ("tasks", [id, name, steps @ ..]) => (self.attribute(id, name)?, steps),
            ("inputs", steps) => {
                (self.0.inputs.json().map_err(|words| format!("the inputs cannot be read: {words}"))?, steps)
            }
            ("execution", steps) => (&self.0.execution, steps),
            _ => return Err(format!("`{}` is no value", path.text)),
        };
        for step in steps {
            value = value.member(step).ok_or_else(|| format!("there is no `{step}` in {}", value.kind()))?;
        }
        Ok(value)
    }

    /// Computes an expression.
    ///
    /// # Errors
    /// Says what went wrong.
    pub fn evaluate(&self, environment: &Environment<'_>, expression: &str) -> Result<Value, String> {
        let expression = environment.compile_expression_owned(expression.to_string()).map_err(|error| fault(&error))?;
        expression.eval(Value::from_dyn_object(Arc::clone(&self.0))).map_err(|error| fault(&error))
    }
}

/// minijinja with nothing in it but what expressions may do, and so much fuel: one unit is an instruction or 64 bytes
/// of text made.
pub fn environment(fuel: u64) -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(fuel));
    filter::add(&mut environment);
    environment
}

/// What minijinja says, without its place in a template that people never see.
pub fn fault(error: &Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it costs too much to compute".into(),
        (ErrorKind::UndefinedError, _) => "it uses a value that does not exist".into(),
        (kind, None) => kind.to_string(),
        (_, Some(detail)) => detail.to_string(),
    }
}

/// A JSON value as minijinja computes with it.
pub fn computed(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Integer(value) => Value::from(*value),
        Json::Text(text) => Value::from(Arc::clone(text)),
        Json::List(list) => Value::from_dyn_object(Arc::clone(list)),
        Json::Map(map) => Value::from_dyn_object(Arc::clone(map)),
        Json::Number(written) => number(written),
    }
}

/// Exact up to 128 bits; with a fraction or an exponent, a 64-bit float.
fn number(written: &Arc<str>) -> Value {
    if let Ok(value) = written.parse::<i128>()
        && **written != *"-0"
    {
        return Value::from(value);
    }
    let is_whole = !written.contains(['.', 'e', 'E']);
    match written.parse::<f64>() {
        Ok(value) if value.is_finite() && (!is_whole || **written == *"-0") => Value::from(value),
        _ => Value::from_object(Huge(Arc::clone(written))),
    }
}

/// Whether numbers can be computed with: not those that are too large to be exact.
pub fn is_computable(json: &Json) -> bool {
    match json {
        Json::Number(written) => number(written).kind() == ValueKind::Number,
        _ => true,
    }
}

/// What is computed, as JSON again.
///
/// # Errors
/// Says why it is none.
pub fn json_of(value: &Value) -> Result<Json, String> {
    if let Some(list) = value.downcast_object::<List>() {
        return Ok(Json::List(list));
    }
    if let Some(map) = value.downcast_object::<Map>() {
        return Ok(Json::Map(map));
    }
    if let Some(huge) = value.downcast_object_ref::<Huge>() {
        return Ok(Json::Number(Arc::clone(&huge.0)));
    }
    match value.kind() {
        ValueKind::None => Ok(Json::Null),
        ValueKind::Bool => Ok(Json::Bool(value.is_true())),
        ValueKind::String => Ok(value.to_str().map_or(Json::Null, Json::Text)),
        ValueKind::Number => match (i64::try_from(value.clone()), f64::try_from(value.clone())) {
            (Ok(whole), _) if value.is_integer() => Ok(Json::Integer(whole)),
            _ if value.is_integer() => Ok(Json::Number(value.to_string().into())),
            (_, Ok(float)) if float.is_finite() => Ok(Json::Number(serde_json::Value::from(float).to_string().into())),
            _ => Err("it is no finite number".into()),
        },
        ValueKind::Undefined => Err("it uses a value that does not exist".into()),
        _ => Err("it makes a list that is no value; take one element, or `join` it".into()),
    }
}

/// A number that is looked up and written as it is, and cannot be computed with.
#[derive(Debug)]
struct Huge(Arc<str>);

impl Object for Huge {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = key.as_i64()?;
        let at = if at < 0 {
            self.0.len().checked_sub(usize::try_from(at.unsigned_abs()).ok()?)?
        } else {
            usize::try_from(at).ok()?
        };
        self.0.get(at).map(computed)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let list = Arc::clone(self);
        let values = (0..list.0.len()).map_while(move |at| list.0.get(at).map(computed));
        Enumerator::Iter(Box::new(values))
    }

    // A list without a length cannot be multiplied: `list * 1000000`, twice, is what fuel does not bound.
    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        !self.0.is_empty()
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Self>()?;
        if **self == *other {
            return Some(Ordering::Equal);
        }
        Some(self.0.iter().map(computed).cmp(other.0.iter().map(computed)))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Json::List(Arc::clone(self)).write(f)
    }
}

impl Object for Map {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get(key.as_str()?).map(computed)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.get(key).map(computed)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let keys: Vec<Value> = self.pairs().iter().map(|(key, _)| Value::from(Arc::clone(key))).collect();
        Enumerator::Values(keys)
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Self>()?;
        if **self == *other {
            return Some(Ordering::Equal);
        }
        let members =
            |map: &'_ Self| map.by_key().map(|(key, value)| (Arc::clone(key), computed(value))).collect::<Vec<_>>();
        Some(members(self).cmp(&members(other)))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Json::Map(Arc::clone(self)).write(f)
    }
}

impl Object for Known {
    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        match key {
            "tasks" => Some(Value::from_dyn_object(Arc::clone(&self.tasks))),
            "inputs" => Some(parsed(&self.inputs)),
            "execution" => Some(computed(&self.execution)),
            _ => None,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }
}

impl Object for Tasks {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_str()?).map(|task| Value::from_dyn_object(Arc::clone(task)))
    }
}

impl Object for Task {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "output" => self.output.as_ref().map(parsed),
            name => self.rest.member(name).map(computed),
        }
    }
}

fn parsed(lazy: &Lazy) -> Value {
    match lazy.json() {
        Ok(json) => computed(json),
        Err(words) => Value::from(Error::new(ErrorKind::BadSerialization, words.clone())),
    }
}

/// Whole seconds in UTC.
fn rfc3339(time: Timestamp) -> String {
    let seconds = time.0.div_euclid(1_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": civil_from_days.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
