//! Which peers a message may go to, and which one of them it goes to.
//!
//! A [`Filter`] says which peers match, by what they announce of themselves. A [`Chooser`] picks
//! one of those that match, by a [`Choice`]. Both know a peer only as a [`Candidate`].
//!
//! Pure: randomness is passed in, and equal inputs give equal choices.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::id::NodeId;
use crate::protocol::system::Labels;

/// A joined peer, as routing sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub node: &'a NodeId,
    /// What it announces.
    pub labels: &'a Labels,
    /// Whether we dialed it (a node may be linked both ways).
    pub up: bool,
    /// Whether it dialed us.
    pub down: bool,
    /// Requests of ours that it has not answered.
    pub in_flight: usize,
}

/// A condition on peers. Cheap to clone.
///
/// Equality ([`label`](Self::label), [`ne`](Self::ne), [`one_of`](Self::one_of)) compares texts.
/// Order (`gt`, `gte`, `lt`, `lte`, `between`) compares numbers if both sides are finite decimal
/// numbers, and otherwise texts byte by byte.
///
/// A peer without the label never matches, except for `ne` and `not_one_of`, which it always
/// matches. [`not`](Self::not) turns the whole answer round, so `gt(..).not()` matches it too.
///
/// # Text form
///
/// Conditions separated by commas, all of which must hold; the empty text matches every peer.
///
/// | text | filter |
/// |---|---|
/// | `role=math` | [`Filter::label`] |
/// | `zone!=b` | [`Filter::ne`] |
/// | `zone=a\|b`, `zone!=a\|b` | [`Filter::one_of`], [`Filter::not_one_of`] |
/// | `cores>4`, `cores>=4`, `cores<4`, `cores<=4` | [`Filter::gt`] and so on |
/// | `host~^db[0-9]`, `host!~^db` | [`Filter::matches`], and not |
/// | `host*=db` | [`Filter::contains`] |
/// | `gpu`, `!gpu` | [`Filter::has`], and not |
/// | `@up`, `@down` | [`Filter::up`], [`Filter::down`] |
///
/// A comma within a value is written `\,`. Spaces around names, operators and values are ignored.
///
/// # Examples
///
/// ```
/// use zmesh::node::route::Filter;
/// let written = Filter::label("role", "math").and(Filter::gte("cores", "4")).down();
/// let read: Filter = "role=math,cores>=4,@down".parse()?;
/// assert_eq!(written.to_string(), read.to_string());
/// # Ok::<(), zmesh::node::route::InvalidFilter>(())
/// ```
#[derive(Clone)]
pub struct Filter(Arc<Expression>);

impl Filter {
    /// Matches every peer.
    pub fn any() -> Self {
        Self::all_of(Vec::new())
    }

    /// Matches peers whose label is `value`.
    pub fn label(name: &str, value: &str) -> Self {
        Self::test(name, Test::OneOf(vec![value.to_owned()]))
    }

    /// Matches peers whose label is something else than `value`, or missing.
    pub fn ne(name: &str, value: &str) -> Self {
        Self::test(name, Test::NotOneOf(vec![value.to_owned()]))
    }

    /// Matches peers that have the label, whatever its value.
    pub fn has(name: &str) -> Self {
        Self::test(name, Test::Exists)
    }

    /// Matches peers whose label is greater than `value`.
    pub fn gt(name: &str, value: &str) -> Self {
        Self::test(name, Test::Order(Bound::Gt, value.to_owned()))
    }

    /// Matches peers whose label is `value` or greater.
    pub fn gte(name: &str, value: &str) -> Self {
        Self::test(name, Test::Order(Bound::Gte, value.to_owned()))
    }

    /// Matches peers whose label is less than `value`.
    pub fn lt(name: &str, value: &str) -> Self {
        Self::test(name, Test::Order(Bound::Lt, value.to_owned()))
    }

    /// Matches peers whose label is `value` or less.
    pub fn lte(name: &str, value: &str) -> Self {
        Self::test(name, Test::Order(Bound::Lte, value.to_owned()))
    }

    /// Matches peers whose label lies between `low` and `high`, both included.
    pub fn between(name: &str, low: &str, high: &str) -> Self {
        Self::gte(name, low).and(Self::lte(name, high))
    }

    /// Matches peers whose label is one of `values`.
    pub fn one_of<V: Into<String>>(name: &str, values: impl IntoIterator<Item = V>) -> Self {
        Self::test(name, Test::OneOf(values.into_iter().map(Into::into).collect()))
    }

    /// Matches peers whose label is none of `values`, or missing.
    pub fn not_one_of<V: Into<String>>(name: &str, values: impl IntoIterator<Item = V>) -> Self {
        Self::test(name, Test::NotOneOf(values.into_iter().map(Into::into).collect()))
    }

    /// Matches peers whose label has a match of the regular expression `pattern` in it.
    ///
    /// # Errors
    ///
    /// [`InvalidFilter`]: `pattern` is no regular expression, or too large a one.
    pub fn matches(name: &str, pattern: &str) -> Result<Self, InvalidFilter> {
        let regex = regex::Regex::new(pattern)
            .map_err(|error| InvalidFilter::new(pattern, &error.to_string()))?;
        Ok(Self::test(name, Test::Regex(regex)))
    }

    /// Matches peers whose label has `part` in it.
    pub fn contains(name: &str, part: &str) -> Self {
        Self::test(name, Test::Contains(part.to_owned()))
    }

    /// Matches peers for which `predicate` is true. It runs while the node is locked, so it must be
    /// quick, and must not call the node: that would wait for itself.
    pub fn predicate(predicate: impl Fn(&Candidate<'_>) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(Expression::Predicate(Box::new(predicate))))
    }

    /// Matches what both match.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::all_of(vec![self, other])
    }

    /// Matches what either matches.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(Arc::new(Expression::Or(vec![self, other])))
    }

    /// Matches what this one does not.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "reads as the other combinators do")]
    pub fn not(self) -> Self {
        Self(Arc::new(Expression::Not(self)))
    }

    /// Matches only peers that we dialed.
    #[must_use]
    pub fn up(self) -> Self {
        self.and(Self(Arc::new(Expression::Up)))
    }

    /// Matches only peers that dialed us.
    #[must_use]
    pub fn down(self) -> Self {
        self.and(Self(Arc::new(Expression::Down)))
    }

    /// Whether `candidate` matches.
    pub fn accepts(&self, candidate: &Candidate<'_>) -> bool {
        match &*self.0 {
            Expression::And(filters) => filters.iter().all(|filter| filter.accepts(candidate)),
            Expression::Down => candidate.down,
            Expression::Label { name, test } => test.holds(candidate.labels.get(name)),
            Expression::Not(filter) => !filter.accepts(candidate),
            Expression::Or(filters) => filters.iter().any(|filter| filter.accepts(candidate)),
            Expression::Predicate(predicate) => predicate(candidate),
            Expression::Up => candidate.up,
        }
    }

    fn test(name: &str, test: Test) -> Self {
        Self(Arc::new(Expression::Label { name: name.to_owned(), test }))
    }

    fn all_of(filters: Vec<Self>) -> Self {
        let flat = filters.into_iter().flat_map(|filter| match &*filter.0 {
            Expression::And(parts) => parts.clone(),
            Expression::Down
            | Expression::Label { .. }
            | Expression::Not(_)
            | Expression::Or(_)
            | Expression::Predicate(_)
            | Expression::Up => vec![filter],
        });
        Self(Arc::new(Expression::And(flat.collect())))
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::any()
    }
}

/// The text form, with parentheses, `or` and `not` where the text form has nothing for it.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, filters: &[Self], between: &str| {
            filters.iter().enumerate().try_for_each(|(i, filter)| {
                write!(f, "{}{filter}", if i == 0 { "" } else { between })
            })
        };
        match &*self.0 {
            Expression::And(filters) => joined(f, filters, ","),
            Expression::Down => f.write_str("@down"),
            Expression::Label { name, test } => test.write(f, name),
            Expression::Not(filter) => write!(f, "not({filter})"),
            Expression::Or(filters) => {
                f.write_str("(")?;
                joined(f, filters, " or ")?;
                f.write_str(")")
            }
            Expression::Predicate(_) => f.write_str("predicate"),
            Expression::Up => f.write_str("@up"),
        }
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({self})")
    }
}

impl FromStr for Filter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        if text.trim().is_empty() {
            return Ok(Self::any());
        }
        let conditions = split_conditions(text);
        let filters = conditions.iter().map(|condition| parse_condition(condition.trim()));
        filters.collect::<Result<_, _>>().map(Self::all_of)
    }
}

impl<'de> serde::Deserialize<'de> for Filter {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a text is no filter.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("invalid filter {filter:?}: {reason}")]
pub struct InvalidFilter {
    /// The condition that is wrong.
    pub filter: String,
    /// What is wrong with it.
    pub reason: String,
}

impl InvalidFilter {
    fn new(filter: &str, reason: &str) -> Self {
        Self { filter: filter.to_owned(), reason: reason.to_owned() }
    }
}

/// How one of several matching peers is chosen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Choice {
    /// The peer with the fewest unanswered requests; in turn among equals.
    LeastInFlight,
    /// Any, with equal chances.
    Random,
    /// In turn: the peer that was chosen longest ago, over all filters.
    #[default]
    RoundRobin,
    /// The same peer for the same key, as long as it is there. When a peer comes or goes, only the
    /// keys that are or were its own move. All nodes agree, for any language: see
    /// [`sticky_weight`].
    Sticky(Vec<u8>),
}

/// Chooses peers, and remembers whose turn it is.
///
/// The turn is kept per peer and not per filter, so that calls with different filters do not
/// disturb each other's order and nothing has to be kept per filter.
#[derive(Debug)]
pub struct Chooser {
    rng: fastrand::Rng,
    choices: u64,
    /// The number of the last choice of each peer; peers that are missing come first.
    chosen: BTreeMap<NodeId, u64>,
}

impl Chooser {
    /// A chooser that has chosen nobody.
    pub fn new(rng: fastrand::Rng) -> Self {
        Self { rng, choices: 0, chosen: BTreeMap::new() }
    }

    /// Picks one of `candidates`; none only if there are none. The result does not depend on their
    /// order, except for [`Choice::Random`].
    pub fn choose<'a>(
        &mut self,
        choice: &Choice,
        candidates: impl Iterator<Item = Candidate<'a>>,
    ) -> Option<&'a NodeId> {
        match choice {
            Choice::LeastInFlight => {
                let pick =
                    candidates.min_by_key(|c| (c.in_flight, self.last_choice(c.node), c.node));
                self.mark(pick)
            }
            Choice::Random => self.random(candidates),
            Choice::RoundRobin => {
                let pick = candidates.min_by_key(|c| (self.last_choice(c.node), c.node));
                self.mark(pick)
            }
            Choice::Sticky(key) => {
                let nodes = candidates.map(|candidate| candidate.node);
                nodes.max_by_key(|node| (sticky_weight(key, node), *node))
            }
        }
    }

    /// Forgets a peer that has left.
    pub fn forget(&mut self, node: &NodeId) {
        self.chosen.remove(node);
    }

    fn last_choice(&self, node: &NodeId) -> u64 {
        self.chosen.get(node).copied().unwrap_or(0)
    }

    fn mark<'a>(&mut self, pick: Option<Candidate<'a>>) -> Option<&'a NodeId> {
        let node = pick?.node;
        self.choices += 1;
        match self.chosen.get_mut(node) {
            Some(last) => *last = self.choices,
            None => drop(self.chosen.insert(node.clone(), self.choices)),
        }
        Some(node)
    }

    /// One pass over a stream of unknown length: the n-th candidate replaces the pick with a chance
    /// of one in n.
    fn random<'a>(
        &mut self,
        candidates: impl Iterator<Item = Candidate<'a>>,
    ) -> Option<&'a NodeId> {
        let mut pick = None;
        for (before, candidate) in candidates.enumerate() {
            if self.rng.usize(..=before) == 0 {
                pick = Some(candidate.node);
            }
        }
        pick
    }
}

/// The weight of `node` for `key`: the heaviest candidate has the key (rendezvous hashing).
///
/// FNV-1a over the key, a zero byte and the id, then the finalizer of SplitMix64, since FNV alone
/// hardly mixes the last bytes into the high bits.
pub fn sticky_weight(key: &[u8], node: &NodeId) -> u64 {
    let bytes = key.iter().chain(&[0]).chain(node.as_str().as_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

enum Expression {
    And(Vec<Filter>),
    Down,
    Label { name: String, test: Test },
    Not(Filter),
    Or(Vec<Filter>),
    Predicate(Predicate),
    Up,
}

type Predicate = Box<dyn Fn(&Candidate<'_>) -> bool + Send + Sync>;

enum Test {
    Contains(String),
    Exists,
    NotOneOf(Vec<String>),
    OneOf(Vec<String>),
    Order(Bound, String),
    Regex(regex::Regex),
}

impl Test {
    fn holds(&self, label: Option<&String>) -> bool {
        let Some(label) = label else { return matches!(self, Self::NotOneOf(_)) };
        match self {
            Self::Contains(part) => label.contains(part),
            Self::Exists => true,
            Self::NotOneOf(values) => !values.contains(label),
            Self::OneOf(values) => values.contains(label),
            Self::Order(bound, value) => bound.holds(compare(label, value)),
            Self::Regex(regex) => regex.is_match(label),
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        let escaped = |text: &str| text.replace(',', "\\,");
        match self {
            Self::Contains(part) => write!(f, "{name}*={}", escaped(part)),
            Self::Exists => f.write_str(name),
            Self::NotOneOf(values) => write!(f, "{name}!={}", escaped(&values.join("|"))),
            Self::OneOf(values) => write!(f, "{name}={}", escaped(&values.join("|"))),
            Self::Order(bound, value) => write!(f, "{name}{}{}", bound.sign(), escaped(value)),
            Self::Regex(regex) => write!(f, "{name}~{}", escaped(regex.as_str())),
        }
    }
}

#[derive(Clone, Copy)]
enum Bound {
    Gt,
    Gte,
    Lt,
    Lte,
}

impl Bound {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Gt => ordering.is_gt(),
            Self::Gte => ordering.is_ge(),
            Self::Lt => ordering.is_lt(),
            Self::Lte => ordering.is_le(),
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Gt => ">",
            Self::Gte => ">=",
            Self::Lt => "<",
            Self::Lte => "<=",
        }
    }
}

fn compare(a: &str, b: &str) -> Ordering {
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
    match (number(a), number(b)) {
        (Some(x), Some(y)) => x.partial_cmp(&y).expect("finite numbers have an order"),
        _ => a.cmp(b),
    }
}

/// Splits at commas that no backslash precedes, and takes that backslash away.
fn split_conditions(text: &str) -> Vec<String> {
    let mut conditions = vec![String::new()];
    let mut rest = text;
    while let Some(at) = rest.find(',') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        let condition = conditions.last_mut().expect("the list begins with one condition");
        match before.strip_suffix('\\') {
            Some(before) => {
                condition.push_str(before);
                condition.push(',');
            }
            None => {
                condition.push_str(before);
                conditions.push(String::new());
            }
        }
        rest = after;
    }
    conditions.last_mut().expect("the list begins with one condition").push_str(rest);
    conditions
}

fn parse_condition(text: &str) -> Result<Filter, InvalidFilter> {
    let error = |reason: &str| InvalidFilter::new(text, reason);
    match text {
        "" => return Err(error("a condition is empty")),
        "@up" => return Ok(Filter::any().up()),
        "@down" => return Ok(Filter::any().down()),
        _ => {}
    }
    let name_end = text.find(|c| "=!<>~*".contains(c)).unwrap_or(text.len());
    let (name, rest) = (text[..name_end].trim(), &text[name_end..]);
    if let (true, Some(missing)) = (name.is_empty(), rest.strip_prefix('!')) {
        return match missing.trim() {
            "" => Err(error("no label is named")),
            name if name.contains(|c| "=!<>~*@".contains(c)) => Err(error("no label is named")),
            name => Ok(Filter::has(name).not()),
        };
    }
    if name.is_empty() {
        return Err(error("no label is named"));
    }
    if name.starts_with('@') {
        return Err(error("a direction is @up or @down"));
    }
    // Longer operators first: `>=` begins with `>`.
    const OPERATORS: [&str; 9] = ["!=", "!~", ">=", "<=", "*=", "=", ">", "<", "~"];
    if rest.is_empty() {
        return Ok(Filter::has(name));
    }
    let operator = OPERATORS.into_iter().find(|operator| rest.starts_with(operator));
    let operator = operator.ok_or_else(|| error("the operator is unknown"))?;
    let value = rest[operator.len()..].trim();
    Ok(match operator {
        "!=" => Filter::not_one_of(name, value.split('|')),
        "!~" => Filter::matches(name, value)?.not(),
        ">=" => Filter::gte(name, value),
        "<=" => Filter::lte(name, value),
        "*=" => Filter::contains(name, value),
        "=" => Filter::one_of(name, value.split('|')),
        ">" => Filter::gt(name, value),
        "<" => Filter::lt(name, value),
        _ => Filter::matches(name, value)?,
    })
}

#[cfg(test)]
mod tests;
