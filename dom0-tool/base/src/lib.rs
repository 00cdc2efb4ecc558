//! The foundation of lull's programs: values as operators write them, files, processes,
//! terminals. Nothing here depends on Xen, a guest or a migration.

pub mod atomic_file;
pub mod bandwidth;
pub mod bit_set;
pub mod child;
pub mod confine;
pub mod connections;
pub mod duration;
pub mod exit;
pub mod file_lock;
pub mod fmt;
#[cfg(feature = "test-support")]
pub mod fuzz;
pub mod hygiene;
pub mod inherited_fd;
pub mod lines;
pub mod monotonic;
pub mod net_link;
pub mod optional;
pub mod own_executable;
pub mod passed_fds;
pub mod processes;
pub mod quantity;
pub mod ready;
pub mod risk;
pub mod shell;
pub mod spawn;
pub mod suggest;
pub mod table;
pub mod terminal;
pub mod text;
