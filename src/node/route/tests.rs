//! Filters by table, choices by what they promise.

use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn accepts(filter: &Filter, labels: &Labels) -> bool {
    let node = "n".parse().unwrap();
    filter.accepts(&Candidate { node: &node, labels, up: true, down: false, in_flight: 0 })
}

/// A set of idle peers to choose from, all without labels.
struct Peers(Vec<(NodeId, usize)>, Labels);

impl Peers {
    fn new(names: &[&str]) -> Self {
        Self(names.iter().map(|name| (name.parse().unwrap(), 0)).collect(), Labels::new())
    }

    fn candidates(&self) -> impl Iterator<Item = Candidate<'_>> {
        self.0.iter().map(|(node, in_flight)| Candidate {
            node,
            labels: &self.1,
            up: true,
            down: false,
            in_flight: *in_flight,
        })
    }

    fn choose(&self, chooser: &mut Chooser, choice: &Choice) -> String {
        chooser.choose(choice, self.candidates()).unwrap().to_string()
    }
}

fn chooser() -> Chooser {
    Chooser::new(fastrand::Rng::with_seed(3))
}

/// Every operator on a label that matches, one that does not, and on a missing label.
#[test]
fn operators_match_as_documented_and_missing_labels_do_not() {
    for (filter, matching, other, missing) in [
        ("x=5", "5", "5.0", false),
        ("x!=5", "5.0", "5", true),
        ("x=a|b", "b", "c", false),
        ("x!=a|b", "c", "b", true),
        ("x>5", "10", "5", false),
        ("x>=5", "5.0", "4.9", false),
        ("x<5", "-10", "5", false),
        ("x<=5", "5", "10", false),
        ("x>b", "c", "b", false),
        ("x>5", "b", "", false),
        ("x<nan", "5", "z", false),
        ("x~^db[0-9]{1\\,2}$", "db42", "db421", false),
        ("x!~^db", "a-db", "db", true),
        ("x*=b\\,c", "ab,cd", "bc", false),
        ("x", "", "", false),
        ("x>=2, x<=10", "9", "11", false),
    ] {
        let parsed: Filter = filter.parse().unwrap();
        assert!(accepts(&parsed, &labels(&[("x", matching)])), "{filter} on {matching}");
        if filter != "x" {
            assert!(!accepts(&parsed, &labels(&[("x", other)])), "{filter} on {other}");
        }
        assert_eq!(accepts(&parsed, &labels(&[("y", "1")])), missing, "{filter} without it");
    }
    assert!(accepts(&"!x".parse().unwrap(), &labels(&[])));
    assert!(!accepts(&"!x".parse().unwrap(), &labels(&[("x", "")])));
    assert!(accepts(&" ".parse().unwrap(), &labels(&[])));
}

/// `and`, `or`, `not` and predicates compose as logic does.
#[test]
fn combinators_compose() {
    let math = || Filter::label("role", "math");
    let east = || Filter::label("zone", "east");
    for (role, zone) in [("math", "east"), ("math", "west"), ("text", "east"), ("text", "west")] {
        let labels = labels(&[("role", role), ("zone", zone)]);
        let (is_math, is_east) = (role == "math", zone == "east");
        assert_eq!(accepts(&math().and(east()), &labels), is_math && is_east);
        assert_eq!(accepts(&math().or(east()), &labels), is_math || is_east);
        assert_eq!(accepts(&math().or(east()).not(), &labels), !(is_math || is_east));
        let predicate = Filter::predicate(|peer| peer.labels["role"].len() == 4 && peer.up);
        assert_eq!(accepts(&predicate.and(math()), &labels), is_math);
    }
    let high = Filter::between("cores", "4", "16");
    assert!(accepts(&high, &labels(&[("cores", "16")])));
    assert!(!accepts(&high, &labels(&[("cores", "17")])));
    assert!(accepts(&high.not(), &labels(&[])), "not turns round the answer for a missing label");
}

/// A node that is linked both ways matches both directions.
#[test]
fn directions_follow_who_dialed() {
    let (node, labels) = ("n".parse().unwrap(), Labels::new());
    for (up, down) in [(true, false), (false, true), (true, true)] {
        let candidate = Candidate { node: &node, labels: &labels, up, down, in_flight: 0 };
        assert_eq!(Filter::any().up().accepts(&candidate), up);
        assert_eq!("@down".parse::<Filter>().unwrap().accepts(&candidate), down);
    }
}

/// What people type wrong is refused with the condition that is wrong.
#[test]
fn malformed_filters_say_what_is_wrong() {
    for (text, condition, reason) in [
        ("role=math,", "", "a condition is empty"),
        ("=math", "=math", "no label is named"),
        ("a=1,!", "!", "no label is named"),
        ("!a=b", "!a=b", "no label is named"),
        ("@left", "@left", "a direction is @up or @down"),
        ("a!b", "a!b", "the operator is unknown"),
        ("a*b", "a*b", "the operator is unknown"),
    ] {
        let error = text.parse::<Filter>().unwrap_err();
        assert_eq!((error.filter.as_str(), error.reason.as_str()), (condition, reason), "{text}");
    }
    assert_eq!("a~(".parse::<Filter>().unwrap_err().filter, "(");
}

/// The text that a filter shows can be typed again.
#[test]
fn text_form_survives_a_round_trip() {
    for text in ["role=math,zone!=b,@up", "a=x|y,b>=4,c<1", "h~^a{1\\,2}$,h*=b", "gpu"] {
        let filter: Filter = text.parse().unwrap();
        assert_eq!(filter.to_string(), text);
    }
}

/// In turn, whatever order the candidates come in and whatever other filters are used between.
#[test]
fn round_robin_is_fair_across_interleaved_filters() {
    let (abc, cba) = (Peers::new(&["a", "b", "c"]), Peers::new(&["c", "b", "a"]));
    let mut chooser = chooser();
    let turn = |chooser: &mut Chooser, peers: &Peers| peers.choose(chooser, &Choice::RoundRobin);
    let turns: Vec<_> =
        (0..6).map(|i| turn(&mut chooser, if i % 2 == 0 { &abc } else { &cba })).collect();
    assert_eq!(turns.concat(), "abcabc");
    let (ab, c) = (Peers::new(&["a", "b"]), Peers::new(&["c"]));
    let turns: Vec<_> =
        (0..8).map(|i| turn(&mut chooser, if i % 2 == 0 { &ab } else { &c })).collect();
    assert_eq!(turns.concat(), "acbcacbc");
    chooser.forget(&"b".parse().unwrap());
    assert_eq!(chooser.chosen.len(), 2);
}

/// The least loaded peer; among equals nobody is preferred.
#[test]
fn least_in_flight_prefers_the_idle_and_rotates_among_equals() {
    let mut peers = Peers::new(&["a", "b", "c"]);
    peers.0[0].1 = 1;
    let mut chooser = chooser();
    let turns: Vec<_> =
        (0..4).map(|_| peers.choose(&mut chooser, &Choice::LeastInFlight)).collect();
    assert_eq!(turns.concat(), "bcbc");
}

/// Equal chances within five standard deviations, and the same choices for the same seed.
#[test]
fn random_choice_is_even_and_repeatable() {
    let peers = Peers::new(&["a", "b", "c", "d"]);
    let draw = || {
        let mut chooser = chooser();
        (0..4_000).map(|_| peers.choose(&mut chooser, &Choice::Random)).collect::<Vec<_>>()
    };
    let draws = draw();
    for name in ["a", "b", "c", "d"] {
        let count = draws.iter().filter(|draw| *draw == name).count();
        assert!(count.abs_diff(1_000) < 137, "{name} was chosen {count} times of 4000");
    }
    assert_eq!(draws, draw());
}

/// When a peer leaves, only its own keys move; the keys are spread over all peers.
#[test]
fn sticky_keys_move_only_with_their_peer() {
    let (all, without_b) = (Peers::new(&["d", "a", "b", "c"]), Peers::new(&["c", "a", "d"]));
    let mut chooser = chooser();
    let mut counts = BTreeMap::new();
    for key in 0..1_000_u32 {
        let choice = Choice::Sticky(key.to_string().into_bytes());
        let before = all.choose(&mut chooser, &choice);
        let after = without_b.choose(&mut chooser, &choice);
        assert!(before == "b" || before == after, "key {key} moved from {before} to {after}");
        *counts.entry(before).or_insert(0) += 1;
    }
    assert!(counts.values().all(|count| (180..320).contains(count)), "{counts:?}");
}

/// Other languages must come to the same choice, so the weights are a promise.
#[test]
fn sticky_weights_are_stable() {
    assert_eq!(sticky_weight(b"", &"a".parse().unwrap()), 0x16bc_26fa_3458_bfad);
    assert_eq!(sticky_weight(b"user-42", &"adder-1".parse().unwrap()), 0xf677_dcb5_8960_e54e);
}

/// Nobody to choose from is none, and nothing else is.
#[test]
fn no_candidates_give_no_choice() {
    for choice in
        [Choice::LeastInFlight, Choice::Random, Choice::RoundRobin, Choice::Sticky(vec![1])]
    {
        assert_eq!(chooser().choose(&choice, std::iter::empty()), None);
        assert_eq!(Peers::new(&["a"]).choose(&mut chooser(), &choice), "a");
    }
}
