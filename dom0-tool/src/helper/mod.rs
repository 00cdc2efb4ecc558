//! lull in the place of libxl's save helper.
//!
//! libxl starts whatever `LIBXL_SAVE_HELPER` names, with a fixed command line
//! ([`args`]), and talks to it over standard input and output ([`libxl`]).
//! Live migrations of guests lull can move are done by the [`engine`](crate::engine);
//! everything else goes to the stock helper, untouched ([`mod@stock`]). A second
//! process cleans up should this one die ([`guard`]). Where the guest lands fast,
//! this process only hands over ([`handed`]).

mod args;
mod front_end;
pub mod guard;
pub mod handed;
mod journal;
mod libxl;
pub mod orders;
mod run;
mod stock;
mod toolstack;

pub use run::{EngineOptions, engine, main};
pub use stock::find as stock;
