//! An attempt as it was seen from outside: what was [observed], how long the guest's
//! [pause](mod@pause) was, which [outcome] that amounts to, and what xl and the destination
//! said ([`printed`]).

pub mod advice;
pub mod observed;
pub mod outcome;
mod pause;
pub mod printed;
