//! What the files of a crate import: paths of `crate`, `super`, `self` and of a file's own modules, in `use` and elsewhere.
//! Tests, comments and strings do not count.

use std::collections::BTreeMap;

use super::graph::Graph;

/// A crate's files, by module: `["check", "plan"]` for `check/plan.rs`.
pub struct Crate(BTreeMap<Vec<String>, File>);

struct File {
    name: String,
    uses: Vec<Use>,
    /// Paths that are written out elsewhere.
    paths: Vec<Vec<String>>,
}

struct Use {
    path: Vec<String>,
    /// Under which name the file has it.
    name: String,
    /// It is only passed on.
    is_public: bool,
}

impl FromIterator<(String, String)> for Crate {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(files: I) -> Self {
        let files: Vec<_> = files.into_iter().collect();
        let modules: Vec<_> = files.iter().map(|(name, _)| module(name)).collect();
        let is_module = |path: &[String]| modules.iter().any(|module| module == path);
        let read = |(name, text): (String, String)| {
            let module = module(&name);
            let mut reader = Reader { tokens: outside_tests(&tokens(&text)), at: 0, inline: Vec::new(), depth: 0 };
            let own = |first: &str| is_module(&[module.clone(), vec![first.to_owned()]].concat());
            let (uses, paths) = reader.read(&own);
            (module.clone(), File { name, uses, paths })
        };
        Self(files.into_iter().filter(|(name, _)| !is_test(name)).map(read).collect())
    }
}

impl Crate {
    /// Which file imports which. What a file passes on is imported from where it is defined, not from there. The head of a
    /// folder holds what all its files share, and puts them together: their imports of their own heads do not count.
    pub fn imports(&self) -> Graph {
        let mut graph = Graph::default();
        for (module, file) in &self.0 {
            let used = file.uses.iter().filter(|one| !one.is_public).map(|one| &one.path);
            let targets = used.chain(&file.paths).filter_map(|path| self.target(module, path, 0));
            let is_head = |target: &str| module.starts_with(&self::module(target)) && target != "lib.rs";
            targets.filter(|target| !is_head(target)).for_each(|target| graph.add(&file.name, target));
        }
        graph
    }

    /// The file in which a path ends that is written in this module.
    fn target(&self, module: &[String], path: &[String], passed_on: usize) -> Option<&str> {
        let (mut at, mut rest) = match path.first()?.as_str() {
            "crate" => (Vec::new(), &path[1..]),
            _ => (module.to_vec(), path),
        };
        while let Some((first, after)) = rest.split_first() {
            match first.as_str() {
                "self" => {}
                "super" => drop(at.pop()),
                name if self.0.contains_key(&[at.clone(), vec![name.to_owned()]].concat()) => at.push(name.to_owned()),
                name => {
                    let file = self.0.get(&at)?;
                    let import = file.uses.iter().find(|import| import.name == name).filter(|_| passed_on < PASSED_ON);
                    let elsewhere = import.and_then(|import| self.target(&at, &import.path, passed_on + 1));
                    // A path that starts with neither is another crate's.
                    let is_own = path.len() > rest.len();
                    return elsewhere.or(is_own.then_some(&file.name));
                }
            }
            rest = after;
        }
        self.0.get(&at).map(|file| file.name.as_str())
    }
}

/// How often a name may be passed on. None in these crates is so more than three times.
const PASSED_ON: usize = 8;

/// The module that a file is.
fn module(name: &str) -> Vec<String> {
    let mut path: Vec<_> = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|last| last == "mod") || path == ["lib"] {
        path.pop();
    }
    path
}

fn is_test(name: &str) -> bool {
    module(name).iter().any(|part| part == "tests" || part.ends_with("_tests"))
}

struct Reader {
    tokens: Vec<String>,
    at: usize,
    /// Depths of the braces of the modules written out that this is in.
    inline: Vec<usize>,
    depth: usize,
}

impl Reader {
    fn read(&mut self, is_own_module: &dyn Fn(&str) -> bool) -> (Vec<Use>, Vec<Vec<String>>) {
        let (mut uses, mut paths) = (Vec::new(), Vec::new());
        while let Some(token) = self.tokens.get(self.at).cloned() {
            match token.as_str() {
                "use" => {
                    let is_public = self.is_public();
                    self.at += 1;
                    let mut found = Vec::new();
                    self.use_tree(&mut Vec::new(), &mut found);
                    let inline = self.inline.len();
                    uses.extend(found.into_iter().map(|(path, name)| Use {
                        path: out_of(inline, path),
                        name,
                        is_public,
                    }));
                }
                "mod" if self.token(2) == "{" => {
                    self.inline.push(self.depth);
                    self.at += 1;
                }
                "{" => self.depth += 1,
                "}" => {
                    self.depth -= 1;
                    if self.inline.last() == Some(&self.depth) {
                        self.inline.pop();
                    }
                }
                name if self.token(1) == "::"
                    && !self.continues()
                    && (["crate", "super", "self"].contains(&name) || is_own_module(name)) =>
                {
                    let path = self.path();
                    paths.push(out_of(self.inline.len(), path));
                }
                _ => {}
            }
            self.at += 1;
        }
        (uses, paths)
    }

    fn token(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", String::as_str)
    }

    /// Whether the token here is part of a longer path or a method.
    fn continues(&self) -> bool {
        let before = self.at.checked_sub(1).and_then(|at| self.tokens.get(at));
        before.is_some_and(|token| ["::", ".", "$"].contains(&token.as_str()))
    }

    /// Whether `pub` or `pub(...)` stands before.
    fn is_public(&self) -> bool {
        self.tokens[..self.at]
            .iter()
            .rev()
            .take_while(|token| ![";", "}", "{", "]"].contains(&token.as_str()))
            .any(|t| t == "pub")
    }

    fn path(&mut self) -> Vec<String> {
        let mut path = vec![self.token(0).to_owned()];
        while self.token(1) == "::" && is_word(self.token(2)) {
            path.push(self.token(2).to_owned());
            self.at += 2;
        }
        path
    }

    /// The tree of a `use` from here to what follows it; `path` is what stands before.
    fn use_tree(&mut self, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, String)>) {
        let before = path.len();
        loop {
            let token = self.token(0).to_owned();
            self.at += 1;
            match token.as_str() {
                "{" => {
                    while self.token(0) != "}" {
                        self.use_tree(path, found);
                        self.at += usize::from(self.token(0) == ",");
                    }
                    self.at += 1;
                    break;
                }
                word => path.push(word.to_owned()),
            }
            if self.token(0) == "::" {
                self.at += 1;
            } else {
                let named = self.token(0) == "as";
                let own = path.iter().rfind(|part| *part != "self").cloned().unwrap_or_default();
                let name = if named { self.token(1).to_owned() } else { own };
                self.at += if named { 2 } else { 0 };
                found.push((path.clone(), name));
                break;
            }
        }
        path.truncate(before);
    }
}

/// A path as the file itself would write it, of one written in so many modules inside of it.
fn out_of(inline: usize, mut path: Vec<String>) -> Vec<String> {
    for _ in 0..inline {
        if path.first().is_some_and(|first| first == "super") {
            path[0] = "self".to_owned();
            if path.get(1).is_some_and(|second| second == "super") {
                path.remove(0);
            }
        }
    }
    path
}

/// Without the items that are for tests only.
fn outside_tests(tokens: &[String]) -> Vec<String> {
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if tokens[at..].iter().take(TEST_ATTRIBUTE.len()).eq(TEST_ATTRIBUTE) {
            at += TEST_ATTRIBUTE.len();
            at += item_length(&tokens[at..]);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

const TEST_ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

/// Tokens up to the end of the first item: its semicolon, or its block. The braces of a `use` have a semicolon after them.
fn item_length(tokens: &[String]) -> usize {
    let is_use = tokens.iter().take_while(|token| *token != "{").any(|token| token == "use");
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if depth == 0 && !is_use {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::`, and other characters one by one. Comments, strings and spaces are left out.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = not_code(rest);
        if length > 0 {
            rest = &rest[length..];
            continue;
        }
        let is_in_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            c if is_in_word(c) => rest.find(|c| !is_in_word(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            c => c.len_utf8(),
        };
        if !first.is_whitespace() {
            tokens.push(rest[..length].to_owned());
        }
        rest = &rest[length..];
    }
    tokens
}

/// Bytes of the comment, the string or the character that is here; 0 if none is.
fn not_code(text: &str) -> usize {
    let up_to = |start: usize, end: &str| text[start..].find(end).map_or(text.len(), |at| start + at + end.len());
    let hashes = text
        .trim_start_matches('b')
        .strip_prefix('r')
        .map_or("", |raw| &raw[..raw.len() - raw.trim_start_matches('#').len()]);
    let prefix = text.len() - text.trim_start_matches(['b', 'r', 'c']).trim_start_matches('#').len();
    match text.as_bytes() {
        [b'/', b'/', ..] => text.find('\n').unwrap_or(text.len()),
        [b'/', b'*', ..] => up_to(2, "*/"),
        [b'b' | b'r', ..] if prefix <= 8 && text[prefix..].starts_with('"') && text[..prefix].contains('r') => {
            up_to(prefix + 1, &format!("\"{hashes}"))
        }
        [b'"', ..] => quoted(text, b'"'),
        [b'\'', b'\\', ..] => quoted(text, b'\''),
        // Else it is a lifetime.
        [b'\'', ..] if text.chars().nth(2) == Some('\'') => 2 + text.chars().nth(1).map_or(1, char::len_utf8),
        _ => 0,
    }
}

/// Bytes of what is quoted, its escapes left aside.
fn quoted(text: &str, quote: u8) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}
