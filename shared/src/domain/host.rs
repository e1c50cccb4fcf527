//! Hosts as the pool sees them, and how a wish for more or fewer workers is shared out among them.
//!
//! Not here: how a host keeps its workers (`worker/src/host`).

use serde::{Deserialize, Serialize};

use super::state::words;
use crate::error::{Error, Result};

words! {
    /// How a slot of a host stands.
    Keeping {
        /// It has no worker yet, or its worker is started again in a moment.
        Starting = "starting",
        /// It has a worker.
        Kept = "kept",
        /// Its worker finishes what it runs and is not followed by another.
        Leaving = "leaving",
        /// Its workers ended badly too often; none is started until the host is told again.
        Errored = "errored",
    }
}

/// One slot of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSlot {
    /// Its name in the pool.
    pub name: String,
    /// How it stands.
    pub state: Keeping,
    /// Its worker's process.
    pub pid: Option<u32>,
    /// How its last worker ended that did not end well.
    pub ended: Option<String>,
    /// What that one said last.
    pub said: Option<String>,
}

impl HostSlot {
    /// How its worker ended and what it said, in a line.
    #[must_use]
    pub fn why(&self) -> String {
        [self.ended.as_deref(), self.said.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(": ")
    }
}

/// A host as it tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name: the machine's, with a number where several run there.
    pub name: String,
    /// Its process id there.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// How many workers it is to keep.
    pub wanted: u32,
    /// How many run, those included that are leaving.
    pub actual: u32,
    /// It keeps no fewer.
    pub min: u32,
    /// It keeps no more.
    pub max: u32,
    /// Its slots.
    pub slots: Vec<HostSlot>,
    /// Milliseconds since it was last heard.
    pub silent_ms: u64,
}

impl Host {
    /// The slots that were given up.
    pub fn errored(&self) -> impl Iterator<Item = &HostSlot> {
        self.slots.iter().filter(|slot| slot.state == Keeping::Errored)
    }
}

/// How many workers are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// So many.
    To(u32),
    /// So many more.
    Up(u32),
    /// So many fewer.
    Down(u32),
}

/// What each of these hosts is to keep. Several share the number: each new worker goes to the host that is to keep the
/// fewest, each one less comes from the one that is to keep the most; of equals the first by name. No host goes beyond
/// its bounds, so the sum may be another than what was asked.
#[must_use]
pub fn share(hosts: &[Host], scale: Scale) -> Vec<u32> {
    let mut order: Vec<usize> = (0..hosts.len()).collect();
    order.sort_by(|a, b| hosts[*a].name.cmp(&hosts[*b].name));
    let clamped = |host: &Host, count: u32| count.clamp(host.min, host.max.max(host.min));
    let mut targets: Vec<u32> = hosts.iter().map(|host| clamped(host, host.wanted)).collect();
    let (steps, up) = match scale {
        Scale::Up(count) => (u64::from(count), true),
        Scale::Down(count) => (u64::from(count), false),
        Scale::To(count) => {
            // From the beginning, so that the same wish always gives the same.
            targets = hosts.iter().map(|host| host.min).collect();
            (u64::from(count).saturating_sub(targets.iter().map(|one| u64::from(*one)).sum()), true)
        }
    };
    for _ in 0..steps {
        let next = if up {
            order.iter().copied().filter(|at| targets[*at] < hosts[*at].max).min_by_key(|at| targets[*at])
        } else {
            let most = |at: &usize| std::cmp::Reverse(targets[*at]);
            order.iter().copied().filter(|at| targets[*at] > hosts[*at].min).min_by_key(most)
        };
        let Some(next) = next else { break };
        if up {
            targets[next] += 1;
        } else {
            targets[next] -= 1;
        }
    }
    targets
}

/// The hosts that are meant: the one that is named, else all.
///
/// # Errors
/// There is none, or none of that name.
pub fn meant(hosts: Vec<Host>, named: Option<&str>) -> Result<Vec<Host>> {
    let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    match named {
        _ if hosts.is_empty() => {
            Err(Error::refused("no host is alive").hint("start one with `motorpool-worker host`, or `motorpool up`"))
        }
        Some(name) if !names.contains(&name) => {
            Err(Error::refused(format!("no live host is named {name}"))
                .hint(format!("the hosts are {}", names.join(", "))))
        }
        Some(name) => Ok(hosts.into_iter().filter(|host| host.name == name).collect()),
        None => Ok(hosts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, wanted: u32, min: u32, max: u32) -> Host {
        Host {
            name: name.into(),
            pid: 1,
            version: "0".into(),
            wanted,
            actual: wanted,
            min,
            max,
            slots: vec![],
            silent_ms: 0,
        }
    }

    #[test]
    fn a_wish_is_shared_out_evenly_within_bounds() {
        for (hosts, scale, expected) in [
            (vec![host("a", 2, 0, 64)], Scale::To(5), vec![5]),
            (vec![host("a", 2, 0, 64)], Scale::To(100), vec![64]),
            (vec![host("a", 2, 1, 64)], Scale::To(0), vec![1]),
            (vec![host("a", 2, 0, 64)], Scale::Up(1), vec![3]),
            (vec![host("a", 2, 0, 64)], Scale::Down(3), vec![0]),
            (vec![host("b", 9, 0, 64), host("a", 0, 0, 64)], Scale::To(5), vec![2, 3]),
            (vec![host("a", 0, 0, 1), host("b", 0, 0, 64)], Scale::To(5), vec![1, 4]),
            (vec![host("a", 0, 3, 64), host("b", 0, 0, 64)], Scale::To(4), vec![3, 1]),
            (vec![host("a", 4, 0, 64), host("b", 1, 0, 64)], Scale::Up(2), vec![4, 3]),
            (vec![host("a", 4, 0, 64), host("b", 1, 0, 64)], Scale::Down(2), vec![2, 1]),
            (vec![host("a", 2, 0, 64), host("b", 2, 0, 64)], Scale::Up(u32::MAX), vec![64, 64]),
        ] {
            assert_eq!(share(&hosts, scale), expected, "{scale:?} {hosts:?}");
        }
    }

    #[test]
    fn a_name_means_that_host_and_none_means_all() {
        let hosts = vec![host("a", 1, 0, 9), host("b", 1, 0, 9)];
        assert_eq!(meant(hosts.clone(), None).unwrap().len(), 2);
        assert_eq!(meant(hosts.clone(), Some("b")).unwrap()[0].name, "b");
        let error = meant(hosts, Some("c")).unwrap_err();
        assert!(error.to_string().contains("a, b"), "{error}");
        assert!(meant(vec![], None).is_err());
    }
}
