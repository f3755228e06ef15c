//! The README's session: what it says to type, and what it says comes back.

use std::path::Path;

use crate::clients::psql;
use crate::demo::{DEMO_CLOCK, quickstart, statements};
use crate::harness::{Online, Setup};

/// A fenced block: its language and its text.
struct Block {
    language: String,
    text: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in markdown.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some(Block { language: language.into(), text: String::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

fn normal(statement: &str) -> String {
    statement.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn readme() -> Vec<Block> {
    blocks(&std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap())
}

/// The output of each statement as the README may show it: without the spaces that psql leaves at line ends.
fn shown(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_matches('\n').to_owned()
}

/// Whether the README shows this answer; a line `…` there stands for any lines.
fn shows(shown: &str, answer: &str) -> bool {
    let mut rest = answer;
    for (place, part) in shown.split("\n…").enumerate() {
        let part = part.trim_start_matches('\n');
        match rest.find(part) {
            Some(0) => rest = &rest[part.len()..],
            Some(at) if place > 0 => rest = &rest[at + part.len()..],
            _ => return false,
        }
    }
    rest.is_empty() || shown.ends_with("\n…")
}

#[test]
fn the_readme_and_the_quickstart_are_one_session() {
    let quickstart: Vec<String> = quickstart().iter().map(|statement| normal(statement)).collect();
    let readme = readme();
    let sql = readme.iter().filter(|block| block.language == "sql");
    let strays: Vec<String> = sql
        .flat_map(|block| statements(&block.text))
        .map(|statement| normal(&statement))
        .filter(|statement| !quickstart.contains(statement))
        .collect();
    assert!(strays.is_empty(), "not in sql/quickstart.sql:\n{}", strays.join("\n"));
}

#[test]
fn the_readme_shows_what_comes_back() {
    let gateway = Setup::new(Online::Embedded).clock(DEMO_CLOCK).start();
    let blocks = readme();
    let mut answers = Vec::new();
    for statement in quickstart() {
        let output = psql(&gateway, &["-q", "-v", "ON_ERROR_STOP=1", "-c", &statement]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statement}\n{error}");
        answers.push((normal(&statement), shown(&String::from_utf8_lossy(&output.stdout))));
    }
    let mut checked = 0;
    for pair in blocks.windows(2) {
        if (pair[0].language.as_str(), pair[1].language.as_str()) != ("sql", "text") {
            continue;
        }
        let asked: Vec<String> = statements(&pair[0].text).iter().map(|statement| normal(statement)).collect();
        let answer = answers.iter().filter(|(statement, _)| asked.contains(statement)).map(|(_, answer)| answer.as_str());
        let (answer, shown) = (answer.collect::<Vec<_>>().join("\n\n"), shown(&pair[1].text));
        assert!(shows(&shown, &answer), "what comes back of\n{}\nis\n{answer}\nand the README shows\n{shown}", pair[0].text);
        checked += 1;
    }
    assert!(checked >= 3, "the README shows the three answers");
}
