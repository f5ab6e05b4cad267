//! Network namespaces: each process has an interface of its own, which can be unplugged, and packets
//! that are dropped are dropped by the system, without a word to either side.

use std::process::{Command, Stdio};

/// Where each has its address: 10.213.SUBNET.NUMBER, the clients last.
const NET: &str = "10.213";
const CLIENTS: u8 = 254;

/// As long as it is not dropped.
pub(crate) struct Namespaces {
    /// Begins all names; those of interfaces have 15 letters at most.
    prefix: String,
    subnet: u8,
    count: u8,
}

impl Namespaces {
    /// None where that is not allowed.
    pub(crate) fn make(count: u8) -> Option<Self> {
        let pid = std::process::id();
        let subnet = u8::try_from(pid % 250).unwrap();
        let made = Self { prefix: format!("zm{}", pid % 1_000_000), subnet, count };
        let Self { prefix, .. } = &made;
        let clients = made.host_of(CLIENTS);
        let bridge = ip(&format!("link add {prefix}b type bridge"))
            && ip(&format!("addr add {clients}/24 dev {prefix}b"))
            && ip(&format!("link set {prefix}b up"));
        (bridge && (0..count).all(|number| made.add(number))).then_some(made)
    }

    fn add(&self, number: u8) -> bool {
        let (prefix, name, host) = (&self.prefix, self.name(number), self.host(number));
        ip(&format!("netns add {name}"))
            && ip(&format!("link add {prefix}v{number} type veth peer name eth0 netns {name}"))
            && ip(&format!("link set {prefix}v{number} master {prefix}b up"))
            && ip(&format!("-n {name} addr add {host}/24 dev eth0"))
            && ip(&format!("-n {name} link set eth0 up"))
            && ip(&format!("-n {name} link set lo up"))
    }

    pub(crate) fn name(&self, number: u8) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// The address of one.
    pub(crate) fn host(&self, number: u8) -> String {
        self.host_of(number + 1)
    }

    fn host_of(&self, last: u8) -> String {
        format!("{NET}.{}.{last}", self.subnet)
    }

    /// Nobody reaches this one, and it reaches nobody.
    pub(crate) fn unplug(&self, number: u8) {
        assert!(ip(&format!("link set {}v{number} down", self.prefix)));
    }

    /// These two do not reach each other; everybody else reaches both.
    pub(crate) fn part(&self, one: u8, other: u8) {
        for number in [one, other] {
            assert!(bridge(&format!("link set dev {}v{number} isolated on", self.prefix)));
        }
    }

    /// What one sends to the other is thrown away; the way back stays open.
    pub(crate) fn silence(&self, from: u8, to: u8) {
        let (name, host) = (self.name(from), self.host(to));
        assert!(ip(&format!("-n {name} route add blackhole {host}/32")));
    }

    /// Ends all of it.
    pub(crate) fn heal(&self) {
        for number in 0..self.count {
            let prefix = &self.prefix;
            assert!(ip(&format!("link set {prefix}v{number} up")));
            assert!(bridge(&format!("link set dev {prefix}v{number} isolated off")));
            ip(&format!("-n {} route flush type blackhole", self.name(number)));
        }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for number in 0..self.count {
            ip(&format!("netns del {}", self.name(number)));
            ip(&format!("link del {}v{number}", self.prefix));
        }
        ip(&format!("link del {}b", self.prefix));
    }
}

fn ip(words: &str) -> bool {
    run("ip", words)
}

fn bridge(words: &str) -> bool {
    run("bridge", words)
}

fn run(program: &str, words: &str) -> bool {
    let mut command = Command::new(program);
    command.args(words.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
