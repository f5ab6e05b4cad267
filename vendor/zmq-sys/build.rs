//! Builds libzmq 4.3.5 from source with libsodium and links it statically.
//!
//! `zeromq-src` writes an empty `platform.hpp`; whatever CMake would have detected has to be given
//! as defines. Without them libzmq's timers follow the wall clock, `ZMQ_TCP_KEEPALIVE` does
//! nothing, sockets leak into child processes and every signal costs a socket pair.

use std::env;

/// What a Linux with glibc or musl offers, in the names of libzmq's `platform.hpp.in`.
///
/// `HAVE_FORK` is left out on purpose: with it libzmq asks for the process id at every wait and
/// every signal, six times per round trip, for the sake of children that go on using sockets after
/// a fork without exec. A runtime does not survive such a fork either.
const LINUX_DEFINES: &[&str] = &[
    "HAVE_ACCEPT4=1",
    "HAVE_CLOCK_GETTIME=1",
    "HAVE_MKDTEMP=1",
    "HAVE_POSIX_MEMALIGN=1",
    "ZMQ_CACHELINE_SIZE=64",
    "ZMQ_HAVE_EVENTFD=1",
    "ZMQ_HAVE_EVENTFD_CLOEXEC=1",
    "ZMQ_HAVE_IFADDRS=1",
    "ZMQ_HAVE_O_CLOEXEC=1",
    "ZMQ_HAVE_PTHREAD_SETNAME_2=1",
    "ZMQ_HAVE_PTHREAD_SET_AFFINITY=1",
    "ZMQ_HAVE_SOCK_CLOEXEC=1",
    "ZMQ_HAVE_SO_BINDTODEVICE=1",
    "ZMQ_HAVE_SO_KEEPALIVE=1",
    "ZMQ_HAVE_SO_PEERCRED=1",
    "ZMQ_HAVE_TCP_KEEPCNT=1",
    "ZMQ_HAVE_TCP_KEEPIDLE=1",
    "ZMQ_HAVE_TCP_KEEPINTVL=1",
    "ZMQ_HAVE_UIO=1",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let var = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));

    if var("CARGO_CFG_TARGET_OS") == "linux" {
        // The `cc` crate, which zeromq-src builds with, reads CXXFLAGS.
        let mut flags = env::var("CXXFLAGS").unwrap_or_default();
        for define in LINUX_DEFINES {
            flags.push_str(" -D");
            flags.push_str(define);
        }
        // SAFETY of set_var: the build script has one thread.
        env::set_var("CXXFLAGS", flags);
    }

    let sodium = zeromq_src::LibLocation::new(var("DEP_SODIUM_LIB"), var("DEP_SODIUM_INCLUDE"));
    zeromq_src::Build::new().with_libsodium(Some(sodium)).build();
}
