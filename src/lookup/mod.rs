//! The short road: lookups compiled once; then keys in, one round trip, packed rows out.
//!
//! The planner compiles a statement that it can prove to be a lookup into a [`CompiledLookup`]: where each part of a key comes
//! from, which views are asked, which bytes of their rows are wanted. Running one touches neither DataFusion nor Arrow:
//! [`Ask`] makes keys of parameters and carries them to the online store together with those of other statements, and
//! [`Found`] shows the bytes of the rows that live. Only where a column is an expression are the cells that it takes put into
//! columns, for [`Compute`] to work on. What a value looks like on the wire is not this room's business, nor is when the road
//! may be taken: that is the session's, which knows settings and blocks.

mod answer;
mod ask;
mod keys;
mod left;
mod plan;

pub use answer::{Answer, Found, LiveRow, could_not_read, is_live, look_up};
pub use ask::{Ask, Given, NothingGiven};
pub use keys::{KeyPlan, LOOKUP_KEYS_MAX, PartSource, Slot, SlotValues, parts};
pub use left::{LeftCell, LeftColumn, LeftPlan, LeftSource};
pub use plan::{
    Candidates, CellSource, ColumnSource, CompiledLookup, Compute, Computed, LookupColumn, LookupView, RowCount, RowRange,
    Standpoint,
};
