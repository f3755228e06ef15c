//! The shape of the sources: layers, homes, lengths. Reads `src` as text.

use std::path::{Path, PathBuf};

/// From the top down. A room may use rooms of lower layers, and itself.
const LAYERS: &[&[&str]] = &[
    &["demo"],
    &["gateway"],
    &["server"],
    &["protocol"],
    &["session"],
    &["catalog", "ingest"],
    &["planner"],
    &["executor", "parser"],
    &["lookup"],
    &["online", "offline"],
    &["registry"],
    &["types"],
    &["config", "metrics", "time"],
    &["error"],
];

/// Libraries that only these places import: a room, or a file.
const HOMES: &[(&str, &[&str])] = &[
    ("pgwire", &["protocol", "server"]),
    ("redis", &["online/redis"]),
    ("lance", &["offline/lance"]),
    ("sqlparser", &["parser", "planner", "catalog", "session"]),
    ("object_store", &["registry/store", "offline"]),
    ("clap", &["main", "config"]),
    ("indicatif", &["gateway", "main", "demo"]),
];

/// Rooms that do without a library that others use.
const ABSENT: &[(&str, &[&str])] =
    &[("lookup", &["datafusion"]), ("online", &["datafusion"]), ("offline", &["datafusion"]), ("registry", &["datafusion"])];

const FILE_LINES_MAX: usize = 500;

/// A source file's code: without comments, and without the tests at its end.
struct Source {
    /// `registry/store`, from `src/registry/store.rs`.
    path: String,
    code: Vec<String>,
}

impl Source {
    fn room(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    fn is_in(&self, home: &str) -> bool {
        self.path == home || self.path.strip_prefix(home).is_some_and(|rest| rest.starts_with(['/', '_']))
    }

    /// Whether the code names `library::…` as a path of its own.
    fn imports(&self, library: &str) -> bool {
        let path = format!("{library}::");
        self.code.iter().any(|line| {
            line.match_indices(&path).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            })
        })
    }

    /// The rooms named by `crate::room` and `crate::{room, …}`.
    fn rooms_used(&self) -> Vec<String> {
        let text = self.code.join("\n");
        let mut rooms = Vec::new();
        for (at, matched) in text.match_indices("crate::") {
            let rest = &text[at + matched.len()..];
            match rest.strip_prefix('{') {
                Some(group) => rooms.extend(top_level_names(group)),
                None => rooms.extend(first_name(rest)),
            }
        }
        rooms
    }
}

/// The names at the top level of a `use` group, up to its closing brace.
fn top_level_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut starts) = (Vec::new(), 0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts = true,
            _ if starts && !c.is_whitespace() => {
                names.extend(first_name(&group[at..]));
                starts = false;
            }
            _ => {}
        }
    }
    names
}

fn first_name(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let named = files(&src, "rs").into_iter().map(|file| {
        let path = file.strip_prefix(&src).unwrap().with_extension("");
        let text = std::fs::read_to_string(&file).unwrap();
        let is_tests = path.file_name().is_some_and(|name| name == "tests");
        let code = text.lines().take_while(|line| !is_tests && line.trim() != "#[cfg(test)]");
        let code = code.filter(|line| !line.trim_start().starts_with("//")).map(str::to_owned).collect();
        let path = path.to_string_lossy().replace('\\', "/");
        Source { path: path.strip_suffix("/mod").unwrap_or(&path).to_owned(), code }
    });
    named.collect()
}

fn depth(room: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&room))
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn imports_run_one_way() {
    let mut faults = Vec::new();
    for source in sources() {
        // The program's own files and the architecture page stand above the rooms.
        if ["main", "allocator", "lib"].contains(&source.room()) {
            continue;
        }
        let Some(own) = depth(source.room()) else {
            faults.push(format!("src/{}.rs is in no layer: give the room `{}` its place in LAYERS", source.path, source.room()));
            continue;
        };
        for used in source.rooms_used() {
            if let Some(other) = depth(&used)
                && used != source.room()
                && other <= own
            {
                faults.push(format!("src/{}.rs uses crate::{used}, which is not below `{}`", source.path, source.room()));
            }
        }
    }
    report(&faults);
}

#[test]
fn configuration_is_read_where_components_are_built() {
    let readers = sources().into_iter().filter(|source| source.rooms_used().contains(&"config".to_owned()));
    let faults: Vec<String> = readers
        .filter(|source| !["demo", "gateway", "main", "config"].contains(&source.room()))
        .map(|source| format!("src/{}.rs reads crate::config", source.path))
        .collect();
    report(&faults);
}

#[test]
fn libraries_stay_in_their_homes() {
    let mut faults = Vec::new();
    for source in sources() {
        for (library, homes) in HOMES {
            if source.imports(library) && !homes.iter().any(|home| source.is_in(home)) {
                faults.push(format!("src/{}.rs imports {library}, whose home is {}", source.path, homes.join(", ")));
            }
        }
        for (room, libraries) in ABSENT {
            for library in *libraries {
                if source.room() == *room && source.imports(library) {
                    faults.push(format!("src/{}.rs imports {library}, which `{room}` does without", source.path));
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn files_have_one_noun_and_few_lines() {
    let mut faults = Vec::new();
    for source in sources() {
        if source.code.len() > FILE_LINES_MAX {
            faults.push(format!("src/{}.rs has {} lines of code", source.path, source.code.len()));
        }
        for vague in ["util", "utils", "helper", "helpers", "common", "manager", "misc"] {
            if source.path.split('/').any(|part| part == vague) {
                faults.push(format!("src/{}.rs: `{vague}` is no noun of this field", source.path));
            }
        }
    }
    report(&faults);
}

#[test]
fn nothing_is_left_unfinished_or_switched_off() {
    let mut faults = Vec::new();
    // Spelt in two halves, so that this file does not find itself.
    let marks =
        [["TO", "DO"], ["FIX", "ME"], ["todo", "!("], ["unimplemented", "!("], ["#[ign", "ore"]].map(|halves| halves.concat());
    for file in files(&root().join("src"), "rs").into_iter().chain(files(&root().join("tests"), "rs")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            for mark in &marks {
                if line.contains(mark.as_str()) {
                    faults.push(format!("{}:{}: {mark}", file.display(), number + 1));
                }
            }
        }
    }
    report(&faults);
}
