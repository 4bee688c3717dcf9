//! What a gate lets through, on a clock and with chances that the test holds.

use keyforge_counters::CooldownClass::{Closed, Dead, Overloaded, Throttled};
use proptest::prelude::*;

use super::*;

fn at(millis: u64) -> Moment {
    Moment::default().plus(Duration::from_millis(millis))
}

fn seconds(count: u64) -> Option<Duration> {
    Some(Duration::from_secs(count))
}

/// Shut at zero for ten seconds.
fn shut() -> Gate {
    let mut gate = Gate::default();
    let entry = gate.enter(at(0));
    assert!(gate.refused(entry, (Throttled, seconds(10)), at(0), 0.0));
    gate
}

fn cooldown(left: u64, stamp: u64) -> Cooldown {
    let (left, wait) = (Duration::from_secs(left), Duration::from_secs(10));
    Cooldown { gate: String::new(), class: Overloaded, left, wait, stamp }
}

#[test]
fn a_refusal_shuts_it_until_the_moment_asked_for_and_a_little_longer() {
    let mut gate = shut();
    assert_eq!(gate.look(at(9_999)), Look::Shut { until: at(10_000), class: Throttled });
    assert_eq!(gate.look(at(10_000)), Look::Probe);
    let mut jittered = Gate::default();
    let entry = jittered.enter(at(0));
    jittered.refused(entry, (Throttled, seconds(10)), at(0), 0.5);
    assert_eq!(jittered.look(at(0)), Look::Shut { until: at(10_500), class: Throttled });
}

#[test]
fn i_27_one_probes_and_then_one_two_four_pass_at_a_time() {
    let mut gate = shut();
    let probe = gate.enter(at(10_000));
    assert!(matches!(gate.look(at(10_000)), Look::Shut { .. }), "somebody probes");
    gate.passed(probe);
    for width in [1, 2, 4, 8, 16, 32] {
        let entries: Vec<_> = (0..width)
            .map(|_| {
                assert_eq!(gate.look(at(10_001)), Look::Open, "{width}");
                gate.enter(at(10_001))
            })
            .collect();
        assert!(matches!(gate.look(at(10_001)), Look::Shut { .. }), "{width}");
        entries.into_iter().for_each(|entry| gate.passed(entry));
    }
    for _ in 0..1_000 {
        assert_eq!(gate.look(at(10_002)), Look::Open);
        gate.enter(at(10_002));
    }
}

#[test]
fn a_refusal_of_the_probe_or_on_the_way_up_doubles_the_wait() {
    let mut gate = Gate::default();
    let entry = gate.enter(at(0));
    gate.refused(entry, (Throttled, None), at(0), 0.0);
    let mut now = 0;
    for wait in [1, 2, 4, 8] {
        now += wait * 1_000;
        assert_eq!(gate.look(at(now)), Look::Probe, "after {wait} s");
        let probe = gate.enter(at(now));
        assert!(gate.refused(probe, (Throttled, None), at(now), 0.0));
    }
    now += 16_000;
    let probe = gate.enter(at(now));
    gate.passed(probe);
    let first = gate.enter(at(now));
    gate.refused(first, (Throttled, None), at(now), 0.0);
    assert_eq!(gate.look(at(now)), Look::Shut { until: at(now + 32_000), class: Throttled });
}

#[test]
fn what_was_sent_before_a_refusal_neither_opens_it_nor_doubles_it_but_may_ask_for_more() {
    let mut gate = Gate::default();
    let entries: Vec<_> = (0..4).map(|_| gate.enter(at(0))).collect();
    assert!(gate.refused(entries[0], (Throttled, seconds(10)), at(100), 0.0));
    gate.passed(entries[1]);
    assert!(!gate.refused(entries[2], (Throttled, seconds(5)), at(200), 0.0));
    assert_eq!(
        gate.look(at(200)),
        Look::Shut { until: at(10_100), class: Throttled },
        "a second one does not shorten it"
    );
    assert!(!gate.refused(entries[3], (Closed, seconds(60)), at(300), 0.0));
    assert_eq!(gate.look(at(300)), Look::Shut { until: at(60_300), class: Closed }, "but may make it longer");
}

#[test]
fn a_late_word_of_before_a_cooldown_does_not_disturb_the_way_up() {
    let mut gate = Gate::default();
    let (first, late) = (gate.enter(at(0)), gate.enter(at(0)));
    gate.refused(first, (Throttled, seconds(1)), at(0), 0.0);
    let probe = gate.enter(at(1_000));
    assert!(!gate.refused(late, (Throttled, seconds(60)), at(1_001), 0.0));
    gate.passed(probe);
    assert_eq!(gate.look(at(1_002)), Look::Open);
}

#[test]
fn silence_is_consent() {
    let mut gate = shut();
    gate.enter(at(10_000));
    assert_eq!(gate.look(at(11_999)), Look::Shut { until: at(12_000), class: Throttled });
    assert_eq!(gate.look(at(12_000)), Look::Open, "an answer may take minutes, a refusal never does");
}

#[test]
fn a_probe_of_which_nothing_is_known_may_be_made_again() {
    let mut gate = shut();
    let probe = gate.enter(at(10_000));
    gate.unknown(probe, at(10_005));
    assert_eq!(gate.look(at(10_005)), Look::Probe);
    let probe = gate.enter(at(10_005));
    gate.denied(probe, at(10_005));
    assert_eq!(gate.look(at(10_204)), Look::Shut { until: at(10_205), class: Throttled }, "another node probes");
}

#[test]
fn others_are_told_of_a_cooldown_once_and_of_its_end_once() {
    let mut gate = shut();
    let news = gate.news(at(1_000)).unwrap();
    assert_eq!(news, News::Cool { class: Throttled, left: Duration::from_secs(9) });
    gate.told(&news, at(1_001));
    gate.learn(&Cooldown { class: Throttled, ..cooldown(9, 77) }, at(1_001));
    assert_eq!((gate.news(at(1_002)), gate.stamp()), (None, Some(77)));
    let probe = gate.enter(at(10_100));
    assert_eq!(gate.news(at(10_100)), None);
    gate.passed(probe);
    assert_eq!(gate.news(at(10_101)), Some(News::Lift { stamp: 77 }));
    gate.nothing_known(at(10_102));
    assert_eq!(gate.news(at(10_102)), None);
}

#[test]
fn what_others_met_is_honoured_and_their_probe_is_believed() {
    let mut gate = Gate::default();
    gate.learn(&cooldown(10, 5), at(0));
    assert_eq!(gate.look(at(9_999)), Look::Shut { until: at(10_000), class: Overloaded });
    gate.learn(&cooldown(3, 5), at(7_000));
    assert_eq!(gate.look(at(10_000)), Look::Probe, "the same cooldown says nothing new");
    gate.nothing_known(at(10_001));
    assert_eq!(gate.look(at(10_001)), Look::Open);
    gate.enter(at(10_001));
    assert!(matches!(gate.look(at(10_001)), Look::Shut { .. }), "it starts slowly here, too");
}

#[test]
fn whoever_waits_for_the_probe_of_another_node_does_not_make_a_cooldown_of_it() {
    let mut gate = Gate::default();
    gate.learn(&cooldown(10, 5), at(0));
    let probe = gate.enter(at(10_000));
    gate.denied(probe, at(10_000));
    gate.nothing_known(at(10_100));
    assert_eq!((gate.news(at(10_100)), gate.look(at(10_100))), (None, Look::Open), "the other's probe passed");
}

#[test]
fn a_store_that_lost_everything_ends_no_wait_and_is_told_again() {
    let mut gate = Gate::default();
    gate.learn(&cooldown(10, 5), at(0));
    gate.nothing_known(at(1_000));
    assert_eq!(gate.look(at(1_000)), Look::Shut { until: at(10_000), class: Overloaded });
    assert_eq!(gate.news(at(1_000)), Some(News::Cool { class: Overloaded, left: Duration::from_secs(9) }));
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Wait(u64),
    End(usize, Option<(usize, Option<u64>)>),
    Learn(u64, u64),
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..5_u64).prop_map(Step::Pass),
        4 => (0..3_000_u64).prop_map(Step::Wait),
        4 => (0..64_usize, prop::option::weighted(0.4, (0..4_usize, prop::option::of(0..20_000_u64))))
            .prop_map(|(which, refused)| Step::End(which, refused)),
        1 => (0..20_u64, 0..10_u64).prop_map(|(left, stamp)| Step::Learn(left, stamp)),
        1 => Just(Step::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: nobody passes before the end of a wait that was asked for after it entered, one probes at a time, and no
    /// gate stays shut for ever.
    #[test]
    fn i_27_no_history_lets_anybody_through_early(steps in prop::collection::vec(step(), 1..120)) {
        let (mut gate, mut now) = (Gate::default(), 0_u64);
        let mut running: Vec<(Entry, u64)> = Vec::new();
        // Since when, and until when, the gate was told to be shut.
        let mut shut_until = 0_u64;
        let mut probing_since: Option<u64> = None;
        for step in steps {
            match step {
                Step::Wait(millis) => now += millis,
                Step::Pass(pause) => {
                    now += pause;
                    match gate.look(at(now)) {
                        Look::Shut { until, .. } => prop_assert!(until > at(now)),
                        Look::Open | Look::Probe => {
                            prop_assert!(now >= shut_until, "passed at {now}, shut until {shut_until}");
                            if gate.look(at(now)) == Look::Probe {
                                let silent = probing_since.is_none_or(|since| now >= since + 2_000);
                                prop_assert!(silent, "two probe at once");
                                probing_since = Some(now);
                            }
                            running.push((gate.enter(at(now)), now));
                        }
                    }
                }
                Step::End(which, refused) => {
                    if running.is_empty() { continue; }
                    let (entry, _) = running.remove(which % running.len());
                    probing_since = None;
                    match refused {
                        None => gate.passed(entry),
                        Some((class, asked)) => {
                            let class = [Throttled, Overloaded, Closed, Dead][class];
                            let stood = gate.shut_for().and_then(|(_, until)| until);
                            gate.refused(entry, (class, asked.map(Duration::from_millis)), at(now), 0.3);
                            if let Some((_, Some(until))) = gate.shut_for() {
                                prop_assert!(stood.is_none_or(|stood| until >= stood), "a wait was cut short");
                                shut_until = u64::try_from(until.since(at(0)).as_millis()).unwrap();
                            }
                        }
                    }
                }
                Step::Learn(left, stamp) => {
                    let before = gate.shut_for();
                    gate.learn(&cooldown(left, stamp), at(now));
                    if gate.shut_for() != before { probing_since = None; }
                    if let (true, Some((_, Some(until)))) = (gate.shut_for() != before, gate.shut_for()) {
                        shut_until = u64::try_from(until.since(at(0)).as_millis()).unwrap();
                    }
                }
                Step::Forget => gate.nothing_known(at(now)),
            }
        }
        // Left alone it can be used again.
        let later = at(now.max(shut_until)).plus(Duration::from_secs(40 * 24 * 3_600));
        let is_shut = matches!(gate.look(later), Look::Shut { .. });
        prop_assert!(!is_shut);
    }
}
