//! One thing that is tried until it works.

use crate::backoff::{Backoff, Policy};
use crate::{Failure, Millis, Outcome};

#[derive(Debug, Clone)]
pub(crate) struct Retry {
    backoff: Backoff,
    /// Why the last try failed; kept until one succeeds.
    pub(crate) failure: Option<Failure>,
    /// Nothing may be tried again before an observation asked for later than this.
    doubt_ms: Option<Millis>,
}

/// Whether a try may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// Not before this moment.
    Until(Millis),
    /// Not before the runtime was asked later than this.
    Look(Millis),
}

impl Retry {
    pub(crate) const fn new(policy: Policy) -> Retry {
        Retry { backoff: Backoff::new(policy), failure: None, doubt_ms: None }
    }

    pub(crate) fn gate(&self, now_ms: Millis, stamp_ms: Option<Millis>) -> Gate {
        if let Some(doubt_ms) = self.doubt_ms
            && stamp_ms.is_none_or(|stamp_ms| stamp_ms <= doubt_ms)
        {
            return Gate::Look(doubt_ms);
        }
        let due_ms = self.due_ms();
        if now_ms < due_ms { Gate::Until(due_ms) } else { Gate::Open }
    }

    pub(crate) fn due_ms(&self) -> Millis {
        self.backoff.due_ms(self.backoff.stepped_ms())
    }

    /// When the last try ended that failed.
    pub(crate) fn failed_ms(&self) -> Millis {
        self.backoff.stepped_ms()
    }

    /// The middle of the delay that runs.
    pub(crate) fn half_ms(&self) -> Millis {
        self.backoff.stepped_ms() + self.backoff.delay_ms() / 2
    }

    pub(crate) fn settle(&mut self, now_ms: Millis, outcome: Outcome) {
        match outcome {
            Outcome::Ok(_) => self.succeeded(),
            Outcome::Failed(failure) => self.failed(now_ms, failure),
            Outcome::Unknown => self.unknown(now_ms),
        }
    }

    pub(crate) fn failed(&mut self, now_ms: Millis, failure: Failure) {
        self.backoff.step(now_ms, now_ms);
        self.failure = Some(failure);
    }

    /// The outcome is not known: look first, and do not hurry either.
    pub(crate) fn unknown(&mut self, now_ms: Millis) {
        self.backoff.step(now_ms, now_ms);
        self.doubt_ms = Some(now_ms);
    }

    /// It is said to have worked; the next try, if one is ever needed, waits for a look and a while.
    pub(crate) fn unconfirmed(&mut self, now_ms: Millis) {
        self.unknown(now_ms);
        self.failure = None;
    }

    /// Look before the next try.
    pub(crate) fn doubt(&mut self, now_ms: Millis) {
        self.doubt_ms = Some(now_ms);
    }

    /// Another takes over: what the former does not know, it does not know either.
    pub(crate) fn inherit_doubt(&mut self, former: &Retry) {
        self.doubt_ms = former.doubt_ms;
    }

    /// It worked, but a thing that has to be made again and again is not made in a hurry.
    pub(crate) fn paced(&mut self, now_ms: Millis) {
        self.backoff.step(now_ms, now_ms);
        self.failure = None;
        self.doubt_ms = None;
    }

    pub(crate) fn succeeded(&mut self) {
        self.backoff.reset();
        self.failure = None;
        self.doubt_ms = None;
    }

    /// Something changed outside: the next try need not wait.
    pub(crate) fn hurry(&mut self) {
        self.backoff.reset();
    }
}
