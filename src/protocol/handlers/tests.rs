//! Tests of `handlers`.

use proptest::prelude::*;

use super::*;

fn pattern(text: &str) -> Pattern {
    match text.strip_prefix("regex:") {
        Some(expression) => Pattern::regex(expression).unwrap(),
        None => Pattern::new(text).unwrap(),
    }
}

fn registry(verb: Verb, patterns: &[&'static str]) -> Handlers<&'static str> {
    let mut handlers = Handlers::new();
    for text in patterns {
        handlers.insert(verb, pattern(text), *text).unwrap();
    }
    handlers
}

/// The rules of NATS, which people know.
#[test]
fn wildcards_match_whole_words() {
    for (text, matching, other) in [
        ("a.b", &["a.b"][..], &["a", "a.b.c", "a.bb"][..]),
        ("a.*", &["a.b", "a.c"], &["a", "a.b.c", "b.a"]),
        ("*.b", &["a.b"], &["b", "a.c", "a.b.c", "_a.b"]),
        ("a.>", &["a.b", "a.b.c"], &["a", "b.a"]),
        (">", &["a", "a.b"], &["_a", "_zmesh.log"]),
        ("a.*.>", &["a.b.c", "a.b.c.d"], &["a", "a.b"]),
        ("_a.*", &["_a.b"], &["_a"]),
        ("regex:^a[0-9]+$", &["a1", "a22"], &["a", "a1.b"]),
        ("regex:sum", &["math.sum", "sum.all"], &["math", "_sum"]),
    ] {
        let pattern = pattern(text);
        assert_eq!(pattern.as_str(), text.trim_start_matches("regex:"));
        assert!(matching.iter().all(|subject| pattern.matches(subject)), "{text}");
        assert!(!other.iter().any(|subject| pattern.matches(subject)), "{text}");
    }
}

/// A pattern that could never match, or not as written, is a mistake to hear about at once.
#[test]
fn malformed_patterns_are_refused() {
    for bad in ["a*", "a.>.b", ">>", "a.b>", "*b.c"] {
        assert!(matches!(Pattern::new(bad), Err(InvalidPattern::Wildcard { .. })), "{bad}");
    }
    for bad in ["", ".", "a..*", "*.", ".>", "a b", "é.*", &"a".repeat(256)] {
        assert!(matches!(Pattern::new(bad), Err(InvalidPattern::Subject(_))), "{bad}");
    }
    for bad in
        ["(", r"(a)\1", "a{1000}{1000}", &"(".repeat(100), &format!("{0}a", "(?:".repeat(60))]
    {
        assert!(matches!(Pattern::regex(bad), Err(InvalidPattern::Regex(_))), "{bad}");
    }
    let long = Pattern::regex(&"a".repeat(REGEX_BYTES_MAX + 1));
    assert_eq!(long, Err(InvalidPattern::RegexLength { bytes: 1_025 }));
    assert!(Pattern::regex(&"a".repeat(REGEX_BYTES_MAX)).is_ok());
}

/// The answer must not depend on the order in which handlers were registered.
#[test]
fn most_specific_request_handler_wins() {
    let by_specificity = ["a.b.c", "a.b.*", "a.b.>", "a.*.c", "a.*.*", "a.>", "*.b.c", "*.>", ">"];
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..50 {
        let mut order = by_specificity;
        rng.shuffle(&mut order);
        let mut handlers = Handlers::new();
        let ids: BTreeMap<_, _> = order
            .iter()
            .map(|text| (*text, handlers.insert(Verb::Request, pattern(text), *text).unwrap()))
            .collect();
        for expected in by_specificity {
            let (id, handler) = handlers.request_handler("a.b.c").unwrap();
            assert_eq!((id, *handler), (ids[expected], expected), "registered as {order:?}");
            assert_eq!(handlers.remove(id), Some(expected));
            assert_eq!(handlers.remove(id), None);
        }
        assert!(handlers.request_handler("a.b.c").is_none());
    }
}

/// Expressions cannot be compared, so they come last, in the order of registration.
#[test]
fn expressions_come_after_wildcards() {
    let mut handlers = registry(Verb::Request, &["regex:^a", "regex:b$", ">"]);
    for expected in [">", "regex:^a", "regex:b$"] {
        let (id, handler) = handlers.request_handler("a.b").unwrap();
        assert_eq!(*handler, expected);
        handlers.remove(id).unwrap();
    }
}

/// Each tick handler is called, once, first come first.
#[test]
fn tick_handlers_are_found_in_order_of_registration() {
    let all = ["a.>", "a.b", "regex:^a", "a.c", "a.b", "*.b", "a.b", ">"];
    let mut handlers = registry(Verb::Tick, &all);
    let found = |handlers: &Handlers<&'static str>, subject| -> Vec<&'static str> {
        let found: Vec<_> = handlers.tick_handlers(subject).collect();
        assert!(found.is_sorted_by_key(|(id, _)| *id));
        found.into_iter().map(|(_, handler)| *handler).collect()
    };
    assert_eq!(found(&handlers, "a.b"), ["a.>", "a.b", "regex:^a", "a.b", "*.b", "a.b", ">"]);
    assert_eq!(found(&handlers, "a.c"), ["a.>", "regex:^a", "a.c", ">"]);
    assert_eq!(found(&handlers, "_a.b"), [""; 0]);
    let second = handlers.tick_handlers("a.b").nth(1).unwrap().0;
    handlers.remove(second).unwrap();
    assert_eq!(found(&handlers, "a.b"), ["a.>", "regex:^a", "a.b", "*.b", "a.b", ">"]);
}

/// Two handlers for one request would be a silent choice; verbs do not get in each other's way.
#[test]
fn second_request_handler_with_the_same_pattern_is_refused() {
    for text in ["a.b", "a.*", "regex:a.b"] {
        let mut handlers = registry(Verb::Request, &[text]);
        let error = handlers.insert(Verb::Request, pattern(text), "second").unwrap_err();
        assert_eq!(error.pattern, text.trim_start_matches("regex:"));
        assert!(handlers.insert(Verb::Tick, pattern(text), "tick").is_ok());
        assert!(handlers.tick_handlers("a.b").map(|(_, handler)| *handler).eq(["tick"]));
        let (id, handler) = handlers.request_handler("a.b").unwrap();
        assert_eq!(*handler, text);
        handlers.remove(id).unwrap();
        assert!(handlers.insert(Verb::Request, pattern(text), "again").is_ok());
    }
    let mut handlers = registry(Verb::Request, &["a.b"]);
    assert!(handlers.insert(Verb::Request, Pattern::regex("a.b").unwrap(), "other").is_ok());
}

proptest! {
    /// Against the same rule written as a regular expression.
    #[test]
    fn wildcards_agree_with_their_expression(
        words in prop::collection::vec("[ab*]", 1..4),
        follow: bool,
        subject in "[ab](\\.[ab]){0,4}",
    ) {
        let mut text = words.join(".");
        let mut expression = text.replace('.', r"\.").replace('*', "[^.]+");
        if follow {
            text.push_str(".>");
            expression.push_str(r"\..+");
        }
        let expression = Regex::new(&format!("^{expression}$")).unwrap();
        prop_assert_eq!(pattern(&text).matches(&subject), expression.is_match(&subject));
    }

    /// Patterns come from configuration and subjects from peers.
    #[test]
    fn any_text_is_a_pattern_or_an_error(text in "[ab.*>_ ]{0,12}", subject in "[ab._]{0,12}") {
        if let Ok(pattern) = Pattern::new(&text) {
            let exact = !text.contains(['*', '>']);
            prop_assert_eq!(pattern.is_exact(), exact);
            prop_assert!(!exact || pattern.matches(&subject) == (text == subject));
        }
        let _ = Pattern::regex(&text);
    }
}
