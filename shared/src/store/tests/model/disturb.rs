//! What happens to a pool without a script: silence, time, an operator's hands, another server.

use super::drive::{World, pick};
use super::ops::{Meddle, Op};
use super::task::{LANES, New, PRIORITIES};
use crate::domain::state::State;

impl World<'_> {
    /// What no script does.
    pub(super) async fn disturb(&mut self, op: &Op) {
        match op {
            Op::Silent(which) => {
                let running = self.model.in_state(State::Running);
                let Some(id) = pick(&running, *which).copied() else { return };
                let New { lane, priority, .. } = self.model.tasks[&id].new;
                let Some(entry) = self.model.tasks[&id].entry else { return };
                self.model.streams[lane][priority].claim(entry, true);
                let key = self.pool.store.keys.lane(LANES[lane], PRIORITIES[priority]);
                let name = self.entries[&entry].clone();
                self.tell(&["XCLAIM", &key, "workers", "w", "0", &name, "IDLE", "60000", "JUSTID"]).await;
            }
            Op::GraceEnds => self.end_grace().await,
            Op::Time(ms) => {
                self.model.now += ms;
                self.set_time().await;
            }
            Op::Forget(who) => {
                let name = self.actors[usize::from(*who)].name.clone();
                self.model.workers.remove(&name);
                self.tell(&["DEL", &self.pool.store.keys.worker(&name)]).await;
            }
            Op::Meddle(place, meddle) => {
                let (lane, priority) = (usize::from(place % 2), usize::from(place / 2));
                let stream = &mut self.model.streams[lane][priority];
                let key = &self.pool.store.keys.lane(LANES[lane], PRIORITIES[priority]);
                let command: &[&str] = match meddle {
                    Meddle::DelConsumer => &["XGROUP", "DELCONSUMER", key, "workers", "w"],
                    Meddle::Trim => &["XTRIM", key, "MAXLEN", "0"],
                    Meddle::Del => &["DEL", key],
                    Meddle::DestroyGroup => &["XGROUP", "DESTROY", key, "workers"],
                };
                match meddle {
                    Meddle::DelConsumer => stream.forget_delivered(),
                    Meddle::Trim => stream.trim(),
                    Meddle::Del => *stream = Default::default(),
                    Meddle::DestroyGroup => stream.destroy_group(),
                }
                self.tell(command).await;
            }
            Op::Restart => {
                let keys = [("meta", &mut self.model.meta_mark), ("seq", &mut self.model.seq_mark)];
                let mut changed = Vec::new();
                for (key, mark) in keys {
                    if let Some(mark) = mark {
                        *mark = false;
                        changed.push(self.pool.key(key));
                    }
                }
                for key in changed {
                    self.tell(&["HSET", &key, "run_id", "another"]).await;
                }
            }
            Op::Full => {
                self.model.full = true;
                self.tell(&["HSET", &self.pool.store.keys.meta(), "full", "1"]).await;
            }
            Op::TakeToken(gpu) => {
                self.model.tokens[usize::from(*gpu)] = false;
                self.tell(&["DEL", &self.pool.store.keys.wake(LANES[usize::from(*gpu)])]).await;
            }
            _ => {}
        }
    }

    pub(super) async fn end_grace(&mut self) {
        self.model.grace = None;
        self.tell(&["HDEL", &self.pool.store.keys.meta(), "grace"]).await;
    }
}
