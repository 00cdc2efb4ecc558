//! What lull keeps in files: in `/run/lull` while a guest moves ([`running`]).

#![forbid(unsafe_code)]

pub mod running;
