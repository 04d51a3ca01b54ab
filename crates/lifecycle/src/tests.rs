//! The machine against scripts and against a model of a runtime.

mod kill_points;
mod policies;
mod rules;
mod script;
mod world;
