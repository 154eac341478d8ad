//! What the project's pages say, held against the program and the sources: networks are accepted, codes exist, links lead
//! somewhere, the arrows of docs/architecture.md are those of the code.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

struct Page {
    path: PathBuf,
    text: String,
}

fn pages(endings: &[&str]) -> Vec<Page> {
    let folders = ["", "docs", "kubevirt"].map(|f| Path::new(ROOT).join(f));
    let files = folders.iter().flat_map(|f| fs::read_dir(f).unwrap()).map(|e| e.unwrap().path());
    let is_page = |p: &PathBuf| p.extension().is_some_and(|e| endings.iter().any(|wanted| e == *wanted));
    files.filter(is_page).map(|path| Page { text: fs::read_to_string(&path).unwrap(), path }).collect()
}

/// The blocks of a Markdown text that are fenced as this language.
fn fenced<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("```{language}\n");
    text.split(&opening).skip(1).map(|rest| rest.split_once("\n```").expect("a fence is closed").0).collect()
}

/// The texts of `config: |` in YAML, by their indentation.
fn configs(yaml: &str) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    let mut lines = yaml.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim() == "config: |" {
            let mut text = String::new();
            while let Some(more) = lines.next_if(|next| indent(next) > indent(line)) {
                text += more;
            }
            found.push(text);
        }
    }
    found
}

fn networks(page: &Page) -> Vec<String> {
    let markdown = page.path.extension().is_some_and(|e| e == "md");
    let yaml = if markdown { fenced(&page.text, "yaml") } else { vec![&*page.text] };
    let nads: usize = yaml.iter().map(|y| y.matches("kind: NetworkAttachmentDefinition").count()).sum();
    let mut found: Vec<String> = yaml.into_iter().flat_map(configs).collect();
    assert_eq!(found.len(), nads, "{}: each NAD has its configuration as `config: |`", page.path.display());
    found.extend(
        fenced(&page.text, "json").into_iter().filter(|j| j.contains(r#""type": "trestle""#)).map(str::to_owned),
    );
    found
}

fn status(conf: &Value) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_trestle"));
    command.env_clear().env("CNI_COMMAND", "STATUS").env("CNI_PATH", "/opt/cni/bin");
    command.env("TRESTLE_RUN_DIR", dir.path().join("run")).env("TRESTLE_STATE_DIR", dir.path().join("state"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// As a meta plugin hands it over; STATUS came with 1.1.0.
fn handed_over(text: &str) -> Value {
    let mut conf: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in\n{text}"));
    conf["cniVersion"] = json!("1.1.0");
    if conf.get("bridge").is_none() && conf.get("master").is_none() {
        conf["args"] = json!({"cni": {"logicNetworkName": "lan"}});
    }
    conf
}

#[test]
fn every_network_is_one_that_the_program_takes() {
    let mut seen = 0;
    for page in pages(&["md", "yaml"]) {
        for text in networks(&page) {
            let Output { status, stdout, stderr } = status(&handed_over(&text));
            let said = [stdout, stderr].map(|s| String::from_utf8_lossy(&s).into_owned()).concat();
            assert!(status.success() && said.is_empty(), "{}: {said}\n{text}", page.path.display());
            seen += 1;
        }
    }
    assert!(seen >= 6, "only {seen} networks were found: the pages have another form now");
    let wrong = status(&handed_over(r#"{"name": "lan", "type": "trestle", "brigde": "br-lan", "master": "eno1"}"#));
    assert!(String::from_utf8_lossy(&wrong.stdout).contains("TR0105"), "STATUS refuses what is misspelt");
}

#[test]
fn every_code_has_its_row() {
    let table = fs::read_to_string(Path::new(ROOT).join("docs/errors.md")).unwrap();
    let mut seen = BTreeSet::new();
    for page in pages(&["md", "yaml"]).iter().filter(|p| !p.path.ends_with("docs/errors.md")) {
        for rest in page.text.split("TR").skip(1) {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if !digits.is_empty() {
                let row = format!("| TR{digits} | ");
                assert!(table.contains(&row), "{}: TR{digits} is not in docs/errors.md", page.path.display());
                seen.insert(digits);
            }
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
}

/// The agent's pods ask for more than the default of many clusters allows, and whoever makes the namespace last decides.
#[test]
fn the_namespace_allows_the_agent() {
    let mut seen = 0;
    for file in ["manifests/namespace.yaml", "kubevirt/binding-nad.yaml"] {
        let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        for object in text.split("\n---\n").filter(|o| o.contains("\nkind: Namespace\n")) {
            assert!(object.contains("labels: {pod-security.kubernetes.io/enforce: privileged}"), "{file}: {object}");
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}

/// `trestle_...` of the metrics, and options of the commands that stay.
#[test]
fn what_the_agent_has_is_on_its_page() {
    fn families(at: &Path, found: &mut BTreeSet<String>) {
        if at.is_dir() {
            fs::read_dir(at).unwrap().for_each(|entry| families(&entry.unwrap().path(), found));
            return;
        }
        let text = fs::read_to_string(at).unwrap();
        for rest in text.split("\"trestle_").skip(1) {
            let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if rest[name.len()..].starts_with('"') && !name.starts_with("test_") {
                found.insert(format!("`trestle_{name}`"));
            }
        }
    }
    let mut wanted = BTreeSet::new();
    families(&Path::new(ROOT).join("src/agent"), &mut wanted);
    assert!(wanted.len() >= 18, "{wanted:?}");
    let help = |args: &[&str], mark: &str| {
        let said = Command::new(env!("CARGO_BIN_EXE_trestle")).args(args).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let words: Vec<&str> = said.split_whitespace().map(|word| word.trim_end_matches([',', '.'])).collect();
        words.into_iter().filter(|w| w.starts_with(mark) && w.len() > 3).map(|w| format!("`{w}")).collect::<Vec<_>>()
    };
    let options = help(&["agent", "--help"], "--");
    let flags = help(&["dhcp", "daemon", "-help"], "-");
    assert!(options.len() >= 8 && flags.len() >= 7, "{options:?} {flags:?}");
    wanted.extend(options.into_iter().chain(flags).map(|option| option.trim_end_matches("...").to_owned()));
    wanted.remove("`--help");
    let page = fs::read_to_string(Path::new(ROOT).join("docs/agent.md")).unwrap();
    let missing: Vec<&String> = wanted.iter().filter(|word| !page.contains(word.as_str())).collect();
    assert!(missing.is_empty(), "docs/agent.md says nothing of {missing:?}");
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for page in pages(&["md"]) {
        for rest in page.text.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = page.path.parent().unwrap().join(target);
            assert!(path.exists(), "{}: no {target}", page.path.display());
            seen += 1;
        }
    }
    assert!(seen >= 5, "only {seen} links were found");
}

/// The names between backticks.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Rooms that a source file names by `crate::`, its tests left out.
fn named(file: &Path, found: &mut BTreeSet<String>) {
    let is_test = file.iter().any(|part| part == "tests" || part == "tests.rs" || part == "testing.rs");
    if is_test {
        return;
    }
    if file.is_dir() {
        fs::read_dir(file).unwrap().for_each(|entry| named(&entry.unwrap().path(), found));
        return;
    }
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for rest in line.split("crate::").skip(1) {
            found.insert(rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect());
        }
    }
}

#[test]
fn the_arrows_are_those_of_the_sources_and_point_down() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/architecture.md")).unwrap();
    let table = page.lines().skip_while(|l| !l.starts_with("| room |")).skip(2).take_while(|l| l.starts_with('|'));
    let rows: Vec<Vec<&str>> = table.map(|l| l.split(" | ").collect()).collect();
    let rooms: Vec<&str> = rows.iter().map(|r| r[0].trim_start_matches("| ").trim_matches('`')).collect();
    let src = Path::new(ROOT).join("src");
    let main = fs::read_to_string(src.join("main.rs")).unwrap();
    for line in main.lines().filter_map(|l| l.strip_prefix("mod ")?.strip_suffix(';')) {
        assert!(rooms.contains(&line), "docs/architecture.md has no row for {line}");
    }
    for (i, (room, row)) in rooms.iter().zip(&rows).enumerate() {
        let mut used = BTreeSet::new();
        if *room == "main" {
            used.extend(rooms.iter().filter(|r| main.contains(&format!(" {r}::"))).map(|r| (*r).to_owned()));
        } else {
            let file = src.join(format!("{room}.rs"));
            named(&if file.exists() { file } else { src.join(room) }, &mut used);
            used.remove(*room);
        }
        assert_eq!(quoted(row[2]), used, "what {room} uses");
        for other in &used {
            assert!(rooms[i + 1..].contains(&other.as_str()), "{room} must not know {other}: the arrow points up");
        }
    }
}
