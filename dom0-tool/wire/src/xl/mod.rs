//! xl's messages: the [`markers`] of its protocol between two hosts, and the lines that
//! show how far a migration has come ([`handshake`]).

pub mod handshake;
pub mod markers;
