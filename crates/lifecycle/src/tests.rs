//! The machine against scripts and against a model of a runtime.

mod behaviours_init;
mod behaviours_restart;
mod behaviours_sidecar;
mod behaviours_termination;
mod inputs;
mod kill_points;
mod plans;
mod policies;
mod rules_1_to_6;
mod rules_7_to_13;
mod script;
mod story;

mod world;
