//! All containers start over in their sandbox. Nothing is remembered of it: as long as the run that set it off is the newest
//! of its container, everything else goes; its own record goes last, and with it the reason to go on. From then on the
//! sandbox holds nothing, and the pod begins with its first container, as in a new one.

use super::core::Core;
use super::record::Sequel;
use super::stopping::{Order, Stop};
use super::telling::Why;
use crate::Action;

pub(crate) fn step(core: &mut Core, source: usize, actions: &mut Vec<Action>) {
    let name = &core.plan.containers[source].name;
    let Some(source_id) = core.record.newest(name).map(|newest| newest.seen.id.clone()) else { return };
    for index in 0..core.record.containers.len() {
        let known = &mut core.record.containers[index];
        if known.seen.id == source_id {
            continue;
        }
        known.sequel = Sequel::AtOnce;
        if known.alive() {
            let kill_at_ms = core.kill_at_ms(index);
            core.stop_container(index, Stop { kill_at_ms, why: Why::Unwanted, order: Order::Alone }, actions);
        } else if !known.gone {
            core.remove_container(index, actions);
        }
    }
    let starting = core.plan.containers.iter().any(|plan| core.ledger.starts(&plan.name));
    let mut others = core.record.containers.iter().filter(|known| known.seen.id != source_id);
    if starting || others.any(|known| !known.gone) {
        return;
    }
    if let Some(index) = core.record.containers.iter().position(|known| known.seen.id == source_id) {
        core.remove_container(index, actions);
    }
}
