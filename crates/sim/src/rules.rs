//! The checkers: each watches one rule, from the facts alone, and keeps what it needs to remember by itself.

mod order;
mod own;
mod rule_01;
mod rule_02;
mod rule_03;
mod rule_04;
mod rule_05;
mod rule_06;
mod rule_07;
mod rule_08;
mod rule_09;
mod rule_10;
mod rule_11;
mod rule_12;
mod rule_13;

use crate::facts::{Fact, Known};
use crate::marks::Marks;

/// Watches one rule. An error says how it was broken.
pub(crate) trait Checker {
    fn name(&self) -> &'static str;

    fn see(&mut self, fact: &Fact<'_>, known: &Known, marks: &mut Marks) -> Result<(), String>;
}

pub(crate) fn all() -> Vec<Box<dyn Checker + Send>> {
    vec![
        Box::<rule_01::Forward>::default(),
        Box::<rule_02::GraceShrinks>::default(),
        Box::<rule_03::NothingBegins>::default(),
        Box::<rule_04::OneAtATime>::default(),
        Box::<rule_05::LookFirst>::default(),
        Box::<rule_06::StaleIsIdle>::default(),
        Box::<rule_07::Orphans>::default(),
        Box::<rule_08::Codes>::default(),
        Box::<rule_09::OneName>::default(),
        Box::<rule_10::Latest>::default(),
        Box::<rule_11::BackOff>::default(),
        Box::<rule_12::AllGone>::default(),
        Box::<rule_13::LastGood>::default(),
        Box::<order::Order>::default(),
        Box::<own::Own>::default(),
    ]
}
