//! Which handler a subject belongs to.
//!
//! Handlers are registered by a [`Pattern`]: an exact subject, a pattern with wildcards as in
//! NATS, or a regular expression. A request has one handler, the most specific; a tick has every
//! handler that matches, in the order of registration. Most subjects are exact, and finding those
//! is one lookup without hash or allocation; patterns are tried one after the other.
//!
//! Subjects of the system (they begin with `_`) match only patterns that spell their first word
//! out, so that a handler for `>` does not see them by accident.
//!
//! Pure. Invariant: `patterns` is in the order in which a subject must try them: by specificity
//! for requests, by registration for ticks.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};

use super::envelope::{InvalidSubject, SUBJECT_BYTES_MAX, Subject};

/// The most bytes of a regular expression.
pub const REGEX_BYTES_MAX: usize = 1_024;
/// The most bytes that a compiled regular expression may take.
const REGEX_COMPILED_BYTES_MAX: usize = 1 << 20;
/// How deep a regular expression may be nested.
const REGEX_NEST_MAX: u32 = 50;

/// Which subjects a handler is for.
///
/// - `math.sum` is that subject.
/// - `*` in place of a word is any one word: `math.*` matches `math.sum`, not `math.sum.fast`.
/// - `>` in place of the last word is one or more words: `math.>` matches both.
/// - [`Pattern::regex`] is searched for in the subject; `^` and `$` anchor it.
///
/// # Examples
///
/// ```
/// use zmesh::protocol::handlers::Pattern;
/// let pattern = Pattern::new("metrics.*.cpu")?;
/// assert!(pattern.matches("metrics.alpha.cpu"));
/// assert!(!pattern.matches("metrics.cpu"));
/// # Ok::<(), zmesh::protocol::handlers::InvalidPattern>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Box<str>,
    matcher: Matcher,
}

impl Pattern {
    /// An exact subject, or a pattern with `*` and `>`.
    ///
    /// # Errors
    ///
    /// [`InvalidPattern`] says what is wrong with the text.
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        if text.len() > SUBJECT_BYTES_MAX {
            return Err(InvalidSubject::Length { bytes: text.len() }.into());
        }
        let count = text.split('.').count();
        let words: Vec<Word> = text
            .split('.')
            .enumerate()
            .map(|(index, word)| Word::parse(word, index + 1 == count))
            .collect::<Result<_, _>>()?;
        let is_exact = words.iter().all(|word| matches!(word, Word::Exactly(_)));
        let matcher = if is_exact { Matcher::Exact } else { Matcher::Words(words) };
        Ok(Self { text: text.into(), matcher })
    }

    /// A regular expression in the syntax of the `regex` crate, which matches in linear time.
    ///
    /// # Errors
    ///
    /// [`InvalidPattern::Regex`] when it cannot be parsed or is too large.
    pub fn regex(expression: &str) -> Result<Self, InvalidPattern> {
        if expression.len() > REGEX_BYTES_MAX {
            return Err(InvalidPattern::RegexLength { bytes: expression.len() });
        }
        let regex = RegexBuilder::new(expression)
            .size_limit(REGEX_COMPILED_BYTES_MAX)
            .dfa_size_limit(REGEX_COMPILED_BYTES_MAX)
            .nest_limit(REGEX_NEST_MAX)
            .build()?;
        Ok(Self { text: expression.into(), matcher: Matcher::Regex(regex) })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern is one subject.
    pub const fn is_exact(&self) -> bool {
        matches!(self.matcher, Matcher::Exact)
    }

    /// Whether `subject` matches.
    pub fn matches(&self, subject: &str) -> bool {
        match &self.matcher {
            Matcher::Exact => *self.text == *subject,
            Matcher::Regex(regex) => !subject.starts_with('_') && regex.is_match(subject),
            Matcher::Words(words) => words_match(words, subject),
        }
    }

    /// Compares by specificity, the more specific first: exact subjects, then wildcards word by
    /// word from the left, where a word is before `*` and `*` is before `>`, then expressions. Of
    /// two different patterns with wildcards that match one subject, one is always before the
    /// other.
    fn compare_specificity(&self, other: &Self) -> Ordering {
        match (&self.matcher, &other.matcher) {
            (Matcher::Words(a), Matcher::Words(b)) => {
                a.iter().map(Word::rank).cmp(b.iter().map(Word::rank))
            }
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

/// Two patterns are the same if they are written the same, in the same syntax.
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.matcher.rank() == other.matcher.rank()
    }
}

impl Eq for Pattern {}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPattern {
    /// The expression cannot be parsed, or is too large when compiled.
    #[error("invalid regular expression: {0}")]
    Regex(#[from] regex::Error),
    /// The expression is too long.
    #[error("a regular expression of {bytes} bytes is over the limit of {REGEX_BYTES_MAX}")]
    RegexLength {
        /// Bytes it has.
        bytes: usize,
    },
    /// What stands beside the wildcards could not be in a subject.
    #[error(transparent)]
    Subject(#[from] InvalidSubject),
    /// `*` or `>` is part of a word, or `>` is not the last word.
    #[error("a wildcard must be a whole word, and '>' the last one, not {word:?}")]
    Wildcard {
        /// The word with the wildcard.
        word: String,
    },
}

/// What a handler is registered for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verb {
    /// Requests, which want a reply.
    Request,
    /// Ticks, which do not.
    Tick,
}

/// Names a registered handler. Never reused; ids go up in the order of registration.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HandlerId(u64);

/// Handlers by verb and subject. `H` is whatever the caller calls.
#[derive(Debug)]
pub struct Handlers<H> {
    requests: Table<H>,
    ticks: Table<H>,
    next_id: u64,
}

impl<H> Handlers<H> {
    /// A registry without handlers.
    pub fn new() -> Self {
        Self { requests: Table::new(), ticks: Table::new(), next_id: 1 }
    }

    /// Registers a handler.
    ///
    /// # Errors
    ///
    /// [`AlreadyRegistered`]: there is a request handler with this very pattern. Ticks take any
    /// number of handlers.
    pub fn insert(
        &mut self,
        verb: Verb,
        pattern: Pattern,
        handler: H,
    ) -> Result<HandlerId, AlreadyRegistered> {
        let id = HandlerId(self.next_id);
        match verb {
            Verb::Request if self.requests.contains(&pattern) => {
                return Err(AlreadyRegistered { pattern: pattern.text.into() });
            }
            Verb::Request => {
                let earlier =
                    |entry: &Entry<H>| entry.pattern.compare_specificity(&pattern).is_le();
                let position = self.requests.patterns.partition_point(earlier);
                self.requests.insert(position, Entry { id, pattern, handler });
            }
            Verb::Tick => {
                let position = self.ticks.patterns.len();
                self.ticks.insert(position, Entry { id, pattern, handler });
            }
        }
        self.next_id += 1;
        Ok(id)
    }

    /// Removes a handler. None if it was removed before.
    ///
    /// Takes time linear in the number of handlers.
    pub fn remove(&mut self, id: HandlerId) -> Option<H> {
        self.requests.remove(id).or_else(|| self.ticks.remove(id))
    }

    /// The handler of requests for `subject`: that of the exact subject, else of the most specific
    /// pattern with wildcards (the first difference from the left decides: a word, then `*`, then
    /// `>`), else of the expression that was registered first.
    pub fn request_handler(&self, subject: &str) -> Option<(HandlerId, &H)> {
        let exact = self.requests.exact(subject).first();
        let entry = exact.or_else(|| self.requests.matching(subject).next())?;
        Some((entry.id, &entry.handler))
    }

    /// All handlers of ticks for `subject`, in the order of registration.
    pub fn tick_handlers(&self, subject: &str) -> impl Iterator<Item = (HandlerId, &H)> {
        let mut exact = self.ticks.exact(subject).iter().peekable();
        let mut matching = self.ticks.matching(subject).peekable();
        std::iter::from_fn(move || {
            let entry = match (exact.peek(), matching.peek()) {
                (Some(a), Some(b)) if a.id < b.id => exact.next(),
                (Some(_), None) => exact.next(),
                (Some(_) | None, Some(_)) => matching.next(),
                (None, None) => None,
            };
            entry.map(|entry| (entry.id, &entry.handler))
        })
    }
}

impl<H> Default for Handlers<H> {
    fn default() -> Self {
        Self::new()
    }
}

/// Another request handler has this very pattern. Nothing was registered.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a request handler for {pattern:?} is registered already")]
pub struct AlreadyRegistered {
    /// The pattern.
    pub pattern: String,
}

/// The handlers of one verb.
#[derive(Debug)]
struct Table<H> {
    exact: BTreeMap<Box<str>, Vec<Entry<H>>>,
    patterns: Vec<Entry<H>>,
}

impl<H> Table<H> {
    fn new() -> Self {
        Self { exact: BTreeMap::new(), patterns: Vec::new() }
    }

    /// Adds an entry; if it is not exact, at this position among the patterns.
    fn insert(&mut self, position: usize, entry: Entry<H>) {
        match entry.pattern.is_exact() {
            true => self.exact.entry(entry.pattern.text.clone()).or_default().push(entry),
            false => self.patterns.insert(position, entry),
        }
    }

    fn remove(&mut self, id: HandlerId) -> Option<H> {
        if let Some(at) = self.patterns.iter().position(|entry| entry.id == id) {
            return Some(self.patterns.remove(at).handler);
        }
        let holds = |entries: &Vec<Entry<H>>| entries.iter().position(|entry| entry.id == id);
        let (entries, at) =
            self.exact.values_mut().find_map(|entries| holds(entries).map(|at| (entries, at)))?;
        let entry = entries.remove(at);
        if entries.is_empty() {
            self.exact.remove(&entry.pattern.text);
        }
        Some(entry.handler)
    }

    fn contains(&self, pattern: &Pattern) -> bool {
        match pattern.is_exact() {
            true => self.exact.contains_key(&pattern.text),
            false => self.patterns.iter().any(|entry| entry.pattern == *pattern),
        }
    }

    fn exact(&self, subject: &str) -> &[Entry<H>] {
        self.exact.get(subject).map_or(&[], Vec::as_slice)
    }

    fn matching(&self, subject: &str) -> impl Iterator<Item = &Entry<H>> {
        self.patterns.iter().filter(move |entry| entry.pattern.matches(subject))
    }
}

#[derive(Debug)]
struct Entry<H> {
    id: HandlerId,
    pattern: Pattern,
    handler: H,
}

#[derive(Clone, Debug)]
enum Matcher {
    Exact,
    Words(Vec<Word>),
    Regex(Regex),
}

impl Matcher {
    const fn rank(&self) -> u8 {
        match self {
            Self::Exact => 0,
            Self::Words(_) => 1,
            Self::Regex(_) => 2,
        }
    }
}

#[derive(Clone, Debug)]
enum Word {
    Exactly(Box<str>),
    /// `*`
    AnyOne,
    /// `>`
    AllThatFollow,
}

impl Word {
    fn parse(word: &str, is_last: bool) -> Result<Self, InvalidPattern> {
        match word {
            "*" => Ok(Self::AnyOne),
            ">" if is_last => Ok(Self::AllThatFollow),
            "" => Err(InvalidSubject::EmptyWord.into()),
            _ if word.contains(['*', '>']) => Err(InvalidPattern::Wildcard { word: word.into() }),
            _ => {
                Subject::check(word.as_bytes())?;
                Ok(Self::Exactly(word.into()))
            }
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Exactly(_) => 0,
            Self::AnyOne => 1,
            Self::AllThatFollow => 2,
        }
    }
}

fn words_match(words: &[Word], subject: &str) -> bool {
    if subject.starts_with('_') && !matches!(words.first(), Some(Word::Exactly(_))) {
        return false;
    }
    let mut rest = subject.split('.');
    for word in words {
        let matches = match (word, rest.next()) {
            (_, None) => false,
            (Word::AllThatFollow, Some(_)) => return true,
            (Word::AnyOne, Some(_)) => true,
            (Word::Exactly(word), Some(actual)) => **word == *actual,
        };
        if !matches {
            return false;
        }
    }
    rest.next().is_none()
}

#[cfg(test)]
mod tests;
