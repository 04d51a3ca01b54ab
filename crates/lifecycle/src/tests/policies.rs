//! Restart policies, sandboxes, adoption, failures of single steps.

use super::script::*;
use crate::*;
