//! Checks that the table of files in `src/lib.rs` is complete, and that each file uses only files further down. The
//! check reads the source as text, and looks for uses only in `use` lines.

use std::collections::BTreeSet;
use std::path::Path;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// Returns the modules in the order of the table.
fn table() -> Vec<String> {
    let lines = include_str!("../src/lib.rs").lines().skip_while(|line| !line.contains("what it does"));
    let rows = lines.skip(2).take_while(|line| !line.contains("```"));
    let files = rows.map(|line| line.split_whitespace().nth(1).expect("a row of the table has a file"));
    files.map(|file| file.strip_suffix(".rs").expect("a Rust file").to_owned()).collect()
}

/// Returns the module of a path in a `use` line, such as `http/request` for `http::request::parse`.
fn module(path: &str, modules: &[String]) -> String {
    let names: Vec<&str> = path.split("::").collect();
    let longest = (1..=names.len()).rev().map(|count| names[..count].join("/"));
    longest.into_iter().find(|name| modules.contains(name)).unwrap_or_else(|| panic!("no file for {path}"))
}

/// Returns the paths that the `use` lines of a file import from this crate. `a::{b, c::d}` is two paths.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().expect("the code comes before its tests");
    let statements = code.split(';').filter_map(|statement| {
        let (_, path) = statement.rsplit_once("\nuse ")?;
        path.strip_prefix("crate::").or(path.strip_prefix("quinistry::"))
    });
    let mut paths = Vec::new();
    for statement in statements {
        let flat: String = statement.split_whitespace().collect();
        match flat.split_once('{') {
            None => paths.push(flat),
            Some((prefix, list)) => {
                let members = list.strip_suffix('}').expect("a flat list").split(',');
                paths.extend(members.filter(|m| !m.is_empty()).map(|member| format!("{prefix}{member}")));
            }
        }
    }
    paths
}

/// Returns the modules that a file declares and uses by their names.
fn submodules(file: &str, text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let used = names.filter(|name| text.contains(&format!("{name}::")));
    used.map(|name| format!("{file}::{name}")).collect()
}

/// Returns all source files below a directory, by their names in the table.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let name = path.strip_prefix(SOURCE).expect("below the source").with_extension("");
            found.push(name.display().to_string());
        }
    }
    found
}

#[test]
fn the_table_lists_every_file_and_each_file_uses_only_files_further_down() {
    let order = table();
    let mut expected: BTreeSet<String> = files(Path::new(SOURCE)).into_iter().collect();
    // The files lib.rs and http.rs only declare modules.
    assert!(expected.remove("lib") && expected.remove("http"));
    assert_eq!(order.iter().cloned().collect::<BTreeSet<_>>(), expected);

    for file in &order {
        let text = std::fs::read_to_string(format!("{SOURCE}/{file}.rs")).expect("the file was just found");
        let paths = imports(&text).into_iter().chain(submodules(file, &text));
        let used: BTreeSet<_> = paths.map(|path| module(&path, &order)).collect();
        let level = |name: &String| order.iter().position(|other| other == name).expect("the file is in the table");
        for other in &used {
            assert!(level(other) > level(file), "{file}.rs uses {other}.rs, which is above it");
        }
        // A path outside of a `use` line would be a use that the check above does not see.
        let hidden = text.lines().find(|line| {
            let code = line.split("//").next().expect("a line has a beginning");
            code.contains("crate::") && !code.starts_with("use ") && !code.contains("$crate")
        });
        assert_eq!(hidden, None, "a path in {file}.rs that is not in a `use` line");
    }
}
