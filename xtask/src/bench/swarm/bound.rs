//! The least time in which a swarm can have the file, links being pipes that share freely (Kumar and Ross 2006, here with
//! clients that come later and clients that vanish).

/// One client as the bound sees it; rates in Mbit/s, times in seconds from the first start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) up: f64,
    pub(crate) down: f64,
    pub(crate) start: f64,
    /// It gives until then, and is not waited for.
    pub(crate) vanish: Option<f64>,
}

/// How exact the answer is, in seconds.
const STEP: f64 = 1e-4;

/// The time after which everybody who stays can have a file of `megabits`, in seconds.
///
/// Nobody takes faster than its own link; the source must send everything once; and at any start, those that come then or
/// later need whole copies of what all links together give from then on. Leaving when done costs nothing here: when the
/// bound is met, all are done at its end.
pub(crate) fn seconds(megabits: f64, source_up: f64, members: &[Member]) -> f64 {
    let staying = || members.iter().filter(|member| member.vanish.is_none());
    let alone = staying().map(|member| member.start + megabits / member.down);
    let first = members.iter().map(|m| m.start).fold(f64::MAX, f64::min);
    let mut least = alone.fold(first + megabits / source_up, f64::max);
    for from in staying().map(|member| member.start) {
        let late = u32::try_from(staying().filter(|member| member.start >= from).count());
        let needed = f64::from(late.unwrap_or(u32::MAX)) * megabits;
        least = least.max(earliest(needed, |until| {
            given(from, until, source_up, members)
        }));
    }
    least
}

/// What all links together can send between two times.
fn given(from: f64, until: f64, source_up: f64, members: &[Member]) -> f64 {
    let peers = members.iter().map(|member| {
        let end = member.vanish.map_or(until, |gone| gone.min(until));
        member.up * (end - member.start.max(from)).max(0.0)
    });
    source_up * (until - from).max(0.0) + peers.sum::<f64>()
}

/// When the growing `amount` reaches `needed`.
fn earliest(needed: f64, amount: impl Fn(f64) -> f64) -> f64 {
    let mut high = 1.0;
    while amount(high) < needed {
        high *= 2.0;
    }
    let mut low = 0.0;
    while high - low > STEP {
        let middle = f64::midpoint(low, high);
        if amount(middle) < needed {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    const EQUAL: Member = Member {
        up: 10.0,
        down: 10.0,
        start: 0.0,
        vanish: None,
    };

    fn near(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 0.01, "{actual}, not {expected}");
    }

    #[test]
    fn three_limits() {
        // The source: 100 Mbit at 5 Mbit/s.
        near(seconds(100.0, 5.0, &[EQUAL; 3]), 20.0);
        // A client's link.
        near(seconds(100.0, 1000.0, &[EQUAL; 3]), 10.0);
        // All uploads: 9 copies of 100 Mbit at 10 + 9 × 1 Mbit/s.
        let weak = Member {
            up: 1.0,
            down: 100.0,
            ..EQUAL
        };
        near(seconds(100.0, 10.0, &[weak; 9]), 900.0 / 19.0);
    }

    #[test]
    fn who_comes_late_is_done_late() {
        let late = Member {
            start: 30.0,
            ..EQUAL
        };
        near(seconds(100.0, 10.0, &[EQUAL, late]), 40.0);
        // From its start on, the late one needs a copy of what all links give: the other is no help if it gives nothing.
        let mute = Member {
            up: 1e-9,
            down: 100.0,
            ..EQUAL
        };
        let late = Member {
            start: 30.0,
            ..mute
        };
        near(seconds(100.0, 10.0, &[mute, late]), 40.0);
    }

    #[test]
    fn who_vanishes_gives_until_then_and_is_not_waited_for() {
        let weak = Member {
            up: 1.0,
            down: 100.0,
            ..EQUAL
        };
        let gone = Member {
            up: 10.0,
            vanish: Some(5.0),
            ..weak
        };
        // 2 copies of 100 Mbit: 10 + 2 Mbit/s all the time and 10 Mbit/s for 5 s.
        near(seconds(100.0, 10.0, &[weak, weak, gone]), 150.0 / 12.0);
    }
}
