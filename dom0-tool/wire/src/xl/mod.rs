//! xl's wording: the [`markers`] of its protocol between two hosts, and what its lines say
//! about how far a migration has come ([`handshake`]).

pub mod handshake;
pub mod markers;
