//! The rules of the house that a compiler does not check: what the core may depend on, which way dependencies run,
//! where they come from and under which licences.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use spdx::{Expression, ParseMode};

/// All that `protocol` may bring into a build. None of them has a clock, a random source or I/O without its `std` feature.
/// A new line here is a decision: say in the commit why the core needs it.
const CORE: [&str; 25] = [
    "arrayvec",
    "blake3",
    "bs58",
    "cfg-if",
    "ciborium",
    "ciborium-io",
    "ciborium-ll",
    "constant_time_eq",
    "cpufeatures",
    "data-encoding",
    "half",
    "proc-macro2",
    "quote",
    "rand_core",
    "rand_xoshiro",
    "semver",
    "serde",
    "serde_core",
    "serde_derive",
    "syn",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
    "zerocopy",
    "zerocopy-derive",
];

/// Licences whose code may be part of a program under MIT without further conditions than naming them.
const LICENCES: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Which member may use which; the tests may look at the types of the core and of the simulator.
const ONE_WAY: [(&str, &[&str]); 4] = [
    ("clawmesh-protocol", &[]),
    ("clawmesh", &["clawmesh-protocol"]),
    ("clawmesh-sim", &["clawmesh-protocol"]),
    ("clawmesh-tests", &["clawmesh-protocol", "clawmesh-sim"]),
];

struct Package {
    name: String,
    licence: String,
    /// What cargo prints behind name and version: a path or an address; empty for the registry.
    source: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What `cargo tree` lists, each package once.
fn tree(args: &[&str]) -> Vec<Package> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["tree", "--locked", "--prefix", "none", "--format", "{p}\t{l}"]).args(args);
    let out = cargo.output().unwrap();
    assert!(out.status.success(), "{cargo:?}: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let lines: BTreeSet<&str> = text.lines().map(|l| l.trim_end_matches(" (*)")).filter(|l| !l.is_empty()).collect();
    let packages: Vec<Package> = lines.into_iter().map(package).collect();
    assert!(!packages.is_empty(), "{cargo:?} listed nothing");
    packages
}

/// `name v1.2.3 (source) (proc-macro)<TAB>licence`, the brackets only where they apply.
fn package(line: &str) -> Package {
    let (what, licence) = line.split_once('\t').unwrap();
    let mut words = what.split(' ');
    let name = words.next().unwrap().to_owned();
    let _version = words.next().unwrap();
    let source = words.filter(|w| *w != "(proc-macro)").collect::<Vec<_>>().join(" ");
    Package { name, licence: licence.to_owned(), source }
}

fn permitted(licence: &str) -> bool {
    Expression::parse_mode(licence, ParseMode::LAX)
        .is_ok_and(|e| e.evaluate(|r| r.addition.is_none() && r.license.id().is_some_and(|id| LICENCES.contains(&id.name))))
}

fn refused(packages: &[Package]) -> Vec<String> {
    packages.iter().filter(|p| !permitted(&p.licence)).map(|p| format!("{}: '{}'", p.name, p.licence)).collect()
}

#[test]
fn licences_are_read_as_their_authors_mean_them() {
    assert!(permitted("MIT"));
    assert!(permitted("Apache-2.0/MIT"), "the old way to write 'or'");
    assert!(permitted("MIT OR Apache-2.0 OR LGPL-2.1-or-later"), "one of several is enough");
    assert!(permitted("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(!permitted("GPL-3.0-only"));
    assert!(!permitted("MIT AND GPL-3.0-only"), "both apply");
    assert!(!permitted("MPL-2.0"));
    assert!(!permitted(""), "no licence is no permission");
}

#[test]
fn every_dependency_may_be_used_under_mit() {
    assert_eq!(refused(&tree(&["--workspace", "--edges", "normal,build,dev"])), Vec::<String>::new());
}

#[test]
#[ignore = "fetches the dependencies of platforms that are not built here"]
fn every_dependency_of_every_platform_may_be_used_under_mit() {
    assert_eq!(refused(&tree(&["--workspace", "--edges", "normal,build,dev", "--target", "all"])), Vec::<String>::new());
}

#[test]
fn every_dependency_comes_from_the_registry() {
    let members: Vec<&str> = ONE_WAY.iter().map(|(name, _)| *name).collect();
    let elsewhere: Vec<String> = tree(&["--workspace", "--edges", "normal,build,dev"])
        .into_iter()
        .filter(|p| !p.source.is_empty() && !members.contains(&p.name.as_str()))
        .map(|p| format!("{} {}", p.name, p.source))
        .collect();
    assert_eq!(elsewhere, Vec::<String>::new());
}

#[test]
fn the_core_depends_on_little() {
    let strange: BTreeSet<String> = tree(&["--package", "clawmesh-protocol", "--edges", "normal"])
        .into_iter()
        .map(|p| p.name)
        .filter(|n| n != "clawmesh-protocol" && !CORE.contains(&n.as_str()))
        .collect();
    assert_eq!(strange, BTreeSet::new());
}

#[test]
fn dependencies_run_one_way() {
    for (member, may_use) in ONE_WAY {
        let uses: BTreeSet<String> = tree(&["--package", member, "--edges", "normal,build"])
            .into_iter()
            .map(|p| p.name)
            .filter(|n| n != member && ONE_WAY.iter().any(|(m, _)| m == n) && !may_use.contains(&n.as_str()))
            .collect();
        assert_eq!(uses, BTreeSet::new(), "{member} must not know them");
    }
}

/// The simulator can break each rule of the core on purpose; in the program there is nothing to break.
#[test]
fn the_program_has_no_broken_rules() {
    let features = |args: &[&str]| -> String {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(root())
            .args(["tree", "--locked", "--prefix", "none", "--edges", "normal,build", "--format", "{p} [{f}]"])
            .args(args);
        let out = cargo.output().unwrap();
        assert!(out.status.success(), "{cargo:?}: {}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        let core: Vec<&str> = text.lines().filter(|l| l.starts_with("clawmesh-protocol ")).collect();
        assert!(!core.is_empty(), "{cargo:?} does not list the core");
        core.join("\n")
    };
    // Whatever is asked of the program, and in a build of everything.
    for args in [&["--package", "clawmesh"][..], &["--package", "clawmesh", "--all-features"], &["--workspace"]] {
        let core = features(args);
        assert!(!core.contains("mutants"), "{args:?}: {core}");
    }
    assert!(features(&["--package", "clawmesh-sim", "--features", "mutants"]).contains("mutants"), "this test sees nothing");
}

/// The compiler then refuses every clock, thread, file and socket of the standard library.
#[test]
fn the_core_has_no_standard_library() {
    let src = root().join("protocol/src");
    let lib = fs::read_to_string(src.join("lib.rs")).unwrap();
    assert!(lib.lines().any(|l| l.trim() == "#![no_std]"), "protocol/src/lib.rs must say #![no_std]");
    let mut seen = 0;
    let mut folders = vec![src];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            seen += 1;
            let text = fs::read_to_string(&path).unwrap();
            assert!(!text.contains("extern crate std"), "{} brings the standard library back", path.display());
        }
    }
    assert!(seen > 10, "looked at {seen} files only");
}
