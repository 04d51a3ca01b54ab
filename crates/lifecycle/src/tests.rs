//! The machine against scripts and against a model of a runtime.

mod kill_points;
mod policies;
mod rules_1_to_6;
mod rules_7_to_13;
mod script;
mod world;
