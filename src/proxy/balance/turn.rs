//! Defines turns: earliest deadline first, so that shares are exact and spread out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::tier::{FULL, Member, Pace};

/// A member's turns are 1/weight apart.
#[derive(Debug)]
pub(super) struct Turn {
    /// Next turn and member's position, earliest first.
    queue: BinaryHeap<Reverse<(u64, u32)>>,
}

/// One turn's distance at weight 1.
const LAP: u64 = 1 << 32;

/// From here turns are counted from 0 again; a busy pool that never changes comes this far in days.
const FAR: u64 = 1 << 62;

impl Turn {
    /// Starts somewhere in the first lap, so that workers and gateways that start together do not march in step.
    pub(super) fn new(members: &[Member], pace: Pace, mut random: impl FnMut() -> u64) -> Self {
        let mut first = |member: &Member| random() % step(member, pace);
        let queue = (0u32..).zip(members).map(|(position, member)| Reverse((first(member), position))).collect();
        Self { queue }
    }

    pub(super) fn next(&mut self, members: &[Member], pace: Pace) -> Option<Member> {
        if let Some(&Reverse((earliest, _))) = self.queue.peek()
            && earliest >= FAR
        {
            let turns = self.queue.drain().map(|Reverse((turn, position))| Reverse((turn - earliest, position)));
            self.queue = turns.collect::<Vec<_>>().into();
        }
        let mut earliest = self.queue.peek_mut()?;
        let Reverse((turn, position)) = *earliest;
        let member = members[position as usize];
        *earliest = Reverse((turn.saturating_add(step(&member, pace)), position));
        Some(member)
    }
}

/// From a member's turn to its next.
fn step(member: &Member, pace: Pace) -> u64 {
    LAP * FULL / (u64::from(member.weight.max(1)) * pace.share(member))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_on_for_ever() {
        let members = [(0, 2), (1, 1)].map(|(index, weight)| Member { index, weight, fresh_since: None });
        let far = FAR - 3 * LAP;
        let mut turn = Turn { queue: [(far, 0), (far + 1, 1)].map(Reverse).into_iter().collect() };
        let mut counts = [0; 2];
        for _ in 0..300 {
            counts[turn.next(&members, Pace::FULL).expect("members").index as usize] += 1;
        }
        assert_eq!(counts, [200, 100]);
        assert!(turn.queue.iter().all(|Reverse((at, _))| *at < FAR));
    }
}
