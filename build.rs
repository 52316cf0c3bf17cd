//! Compiles the protos without protoc: `protox` parses them, `tonic-prost-build` and `pbjson-build` write the code.
//! Without the `daemon` feature there is nothing to do: the pure core knows no protobuf.

fn main() {
    #[cfg(feature = "daemon")]
    if let Err(error) = protos::compile() {
        eprintln!("cannot compile the protos: {error}");
        std::process::exit(1);
    }
}

#[cfg(feature = "daemon")]
mod protos {
    use std::{env, error::Error, fs, path::PathBuf};

    const API: &[&str] = &[
        "nox/v1/workflow_service.proto",
        "nox/v1/execution_service.proto",
        "nox/v1/template_service.proto",
        "nox/v1/schedule_service.proto",
        "nox/v1/agent_service.proto",
        "nox/v1/system_service.proto",
    ];
    const STORE: &[&str] = &["nox/store/v1/rows.proto"];

    pub fn compile() -> Result<(), Box<dyn Error>> {
        println!("cargo:rerun-if-changed=proto");
        let out = PathBuf::from(env::var("OUT_DIR")?);
        compile_api(&out)?;
        compile_store()
    }

    fn compile_api(out: &std::path::Path) -> Result<(), Box<dyn Error>> {
        let mut compiler = protox::Compiler::new(["proto"])?;
        compiler.include_imports(true).include_source_info(true).open_files(API)?;
        // The encoded set keeps everything that the sources say: it is what reflection serves.
        let descriptors = compiler.encode_file_descriptor_set();
        fs::write(out.join("api_descriptors.bin"), &descriptors)?;
        tonic_prost_build::configure()
            // Well-known types with canonical JSON come from pbjson-types.
            .compile_well_known_types(true)
            .extern_path(".google.protobuf", "::pbjson_types")
            .compile_fds(compiler.file_descriptor_set())?;
        pbjson_build::Builder::new().register_descriptors(&descriptors)?.build(&[".nox.v1"])?;
        Ok(())
    }

    fn compile_store() -> Result<(), Box<dyn Error>> {
        let mut compiler = protox::Compiler::new(["proto"])?;
        compiler.include_imports(true).include_source_info(true).open_files(STORE)?;
        tonic_prost_build::configure()
            .build_client(false)
            .build_server(false)
            .compile_fds(compiler.file_descriptor_set())?;
        Ok(())
    }
}
