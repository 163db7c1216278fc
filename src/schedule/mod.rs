//! What runs where: which jobs the pointers want, which host each goes to, and how a release moves
//! from staged to live. The decisions are pure; the two loops around them are thin.
//!
//! `compose` → what a commit changes · `order` → what people ask for without one, `again` → the
//! release that comes of it, `apply` → whether a plan still holds, `variables` → which stacks a changed
//! variable moves · `squeeze` → what has no room beside its live copy · `moves` → what it may not do at
//! once · `require` → which stacks it needs · `wanted` → which jobs · `before` → what runs before the
//! others · `turn` → what has to come before a job · `losses` → which hosts are lost · `relocate` → which
//! jobs must leave theirs · `retire` → which may end · `pins` → where data is · `fleet` → how full
//! the hosts are · `place` → which host · `dowding` → the plan ·
//! `check` → invariants of a plan · `rollout` → the pointer's next step · `fetch` → what must be
//! there before it, `sites` → which hosts have a website's files · `dispatch` and `roll` → the loops · `sweep` → what nobody can need any more ·
//! `why` → what is told of a decision · `script`, `lines` and `sim` → worlds as text, and what would become of them ·
//! `known` → what may be used again · `differ` and `bring` → what another release changes, and how it would
//! come up.

mod again;
pub mod apply;
pub mod before;
pub mod bring;
pub mod check;
pub mod compose;
pub mod differ;
pub mod dispatch;
pub mod dowding;
pub mod fetch;
mod fleet;
pub mod forms;
pub mod judge;
pub mod known;
mod lines;
pub mod losses;
pub mod moves;
pub mod order;
mod pins;
mod place;
pub mod relocate;
pub mod replicate;
pub mod require;
pub mod retire;
pub mod roll;
pub mod rollout;
pub mod script;
pub mod sim;
pub mod sites;
pub mod squeeze;
pub mod sweep;
mod turn;
pub mod variables;
pub mod wanted;
pub mod why;
