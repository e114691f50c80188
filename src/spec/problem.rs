//! Defines a problem someone has to fix: where it is, at which key, and what to do.

use std::fmt;

use serde::Serialize;

/// A problem in something a person wrote: a file, a KV document, a registration, a variable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Problem {
    /// Where: `file:line:column`, `env:NAME`, `consul-kv:KEY`, `etcd:KEY`, with `:line:column` inside a document.
    pub place: String,
    /// The key at fault as a dotted path, empty when it is the whole.
    pub key: String,
    /// What is wrong and how to mend it. Never a secret's value.
    pub text: String,
}

impl Problem {
    /// A problem of a whole place.
    pub fn new(place: impl Into<String>, key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { place: place.into(), key: cut(key.into()), text: cut(text.into()) }
    }
}

/// Longest key or text that is told, in characters.
const MAX_LENGTH: usize = 1000;

/// A text without its middle where it is overlong: it quotes what somebody wrote, and what is wrong stands at its end.
fn cut(text: String) -> String {
    if text.len() <= MAX_LENGTH {
        return text;
    }
    let letters = text.chars().count();
    if letters <= MAX_LENGTH {
        return text;
    }
    let start = text.chars().take(MAX_LENGTH / 2);
    start.chain(" [...] ".chars()).chain(text.chars().skip(letters - MAX_LENGTH / 2)).collect()
}

/// Sorts by place, lines and columns as numbers, then by key; drops what was said twice.
pub fn sort(problems: &mut Vec<Problem>) {
    problems.sort_by(|a, b| place_order(&a.place).cmp(&place_order(&b.place)).then_with(|| a.cmp(b)));
    problems.dedup();
}

fn place_order(place: &str) -> (&str, u32, u32) {
    fn split(text: &str) -> Option<(&str, u32)> {
        let (rest, number) = text.rsplit_once(':')?;
        Some((rest, number.parse().ok()?))
    }
    let position = split(place).and_then(|(rest, column)| split(rest).map(|(rest, line)| (rest, line, column)));
    position.unwrap_or((place, 0, 0))
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.place, self.text)
        } else {
            write!(f, "{}: {}: {}", self.place, self.key, self.text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_cut_in_its_middle() {
        let long = format!("`{}` is too large", "ä".repeat(5000));
        let told = Problem::new("a", "k", long).text;
        assert!(told.starts_with("`ää") && told.ends_with("ä` is too large") && told.chars().count() < 1100, "{told}");
        assert_eq!(Problem::new("a", "k", "ä".repeat(600)).text, "ä".repeat(600));
    }

    #[test]
    fn problems_are_in_the_order_of_their_texts() {
        let mut problems: Vec<_> = ["b:1:1", "a:10:2", "a:9:1", "a:10:10", "env:X", "a:9:1", "a"]
            .map(|place| Problem::new(place, "key", "text"))
            .into();
        sort(&mut problems);
        let places: Vec<_> = problems.iter().map(|problem| problem.place.as_str()).collect();
        assert_eq!(places, ["a", "a:9:1", "a:10:2", "a:10:10", "b:1:1", "env:X"]);
    }
}
