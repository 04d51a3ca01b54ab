//! A manifest that becomes invalid keeps its last good version running, and its error is visible. So does one whose name
//! another file claims.

use super::Checker;
use crate::facts::{Fact, Known};
use crate::marks::{Mark, Marks};

use lifecycle::Stage;
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct LastGood {
    stages: BTreeMap<String, Stage>,
}

impl Checker for LastGood {
    fn name(&self) -> &'static str {
        "rule 13"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known, marks: &mut Marks) -> Result<(), String> {
        match fact {
            Fact::KubeletStarted => self.stages.clear(),
            Fact::ManifestStatuses(statuses) => {
                for told in known.told.iter().flatten().flatten() {
                    let shown = statuses.iter().find(|status| status.file == told.file);
                    let error = shown.and_then(|shown| shown.error.as_ref());
                    let files = known.told.iter().flatten().flatten();
                    let alone = files.filter(|other| other.plan.full_name == told.plan.full_name).count() == 1;
                    let keeps = shown.is_some_and(|shown| shown.keeps_last_good) || !alone;
                    if told.spoiled && !(error.is_some() && keeps) {
                        return Err(format!("{} is spoiled, and that is not shown: {shown:?}", told.file));
                    }
                    if told.contends && error.is_none() {
                        return Err(format!("{} claims a name in vain, and that is not shown", told.file));
                    }
                    if told.spoiled && self.stages.get(&told.plan.uid) == Some(&Stage::Syncing) {
                        marks.hit(Mark::ManifestSpoiled);
                    }
                    if told.contends {
                        marks.hit(Mark::NameContested);
                    }
                }
            }
            Fact::Machine(seen) => {
                let former = self.stages.insert(seen.uid.to_owned(), seen.report.stage);
                let files = || known.told.iter().flatten().flatten();
                let held = files().any(|told| told.spoiled && told.plan.uid == seen.uid);
                let begins_to_end =
                    seen.report.stage >= Stage::Terminating && former.is_some_and(|f| f < Stage::Terminating);
                if held && begins_to_end {
                    return Err(format!("{} ends although its file is only spoiled", seen.uid));
                }
                if files().any(|told| told.contends && told.plan.uid == seen.uid) {
                    return Err(format!("{} has a machine although its name is taken", seen.uid));
                }
            }
            Fact::Ended { uid, .. } => _ = self.stages.remove(*uid),
            _ => {}
        }
        Ok(())
    }
}
