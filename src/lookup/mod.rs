//! The short road: lookups compiled once; then keys in, one round trip, packed rows out.
//!
//! The planner compiles a statement that it can prove to be a lookup into a [`CompiledLookup`]: where each part of a key comes
//! from, which views are asked, which bytes of their rows are wanted. Running one touches neither DataFusion nor Arrow:
//! [`KeyPlan::entities`] makes keys of parameters, [`Ask`] carries them to the online store together with those of other
//! statements, and [`Found`] shows the bytes of the rows that live. What a value looks like on the wire is not this room's
//! business, nor is when the road may be taken: that is the session's, which knows settings and blocks.

mod answer;
mod keys;
mod plan;

pub use answer::{Ask, Found, LiveRow, could_not_read, is_live, look_up};
pub use keys::{KeyPlan, LOOKUP_KEYS_MAX, PartSource, Slot, SlotValues, parts};
pub use plan::{CellSource, CompiledLookup, LookupColumn, LookupView, Standpoint};
