//! Writes the migration stream: the order of its bytes ([`queue`]), their destination
//! ([`sink`]), and the [`pipe`] that carries them.

pub mod pipe;
pub(crate) mod queue;
pub mod sink;
