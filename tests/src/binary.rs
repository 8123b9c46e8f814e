//! Where the program is.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

/// Names a program to test instead of the one in the target directory; it is taken as it is.
const BIN: &str = "CLAWMESH_BIN";

/// The program under test: the one that `CLAWMESH_BIN` names, else the one of this workspace and this profile, which
/// cargo brings up to date once per test process.
///
/// # Panics
/// When it cannot be built.
pub fn binary() -> &'static Path {
    static FOUND: LazyLock<PathBuf> = LazyLock::new(|| match env::var_os(BIN) {
        Some(given) => {
            let given = PathBuf::from(given);
            assert!(given.is_file(), "{BIN} names {}, which is no file", given.display());
            given
        }
        None => build(),
    });
    &FOUND
}

/// The root of the workspace, where the sample skills are.
///
/// # Panics
/// When this package has left the workspace.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package of the tests lies in the workspace")
}

/// The tests' own executable is `<target>/<profile>/deps/<name>`, so the program is two levels up.
fn build() -> PathBuf {
    let test = env::current_exe().expect("the test knows its own executable");
    let profile = test.ancestors().nth(2).expect("the executable lies in <target>/<profile>/deps");
    let name = profile.file_name().and_then(|n| n.to_str()).expect("a profile has a name");
    let target = profile.parent().expect("a profile lies in a target directory");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository()).args(["build", "--quiet", "--locked", "--package", "clawmesh", "--bin", "clawmesh"]);
    cargo.arg("--target-dir").arg(target);
    // The directory of the profile `dev` is called `debug`.
    cargo.arg("--profile").arg(if name == "debug" { "dev" } else { name });
    let done = cargo.status().expect("cargo can be started");
    assert!(done.success(), "the program could not be built: {cargo:?} ended with {done}");
    profile.join("clawmesh").with_extension(env::consts::EXE_EXTENSION)
}
