#![doc = include_str!("../README.md")]

mod backoff;
mod file_system;
mod pending_file;
mod reserve;
mod room;
mod same_file;
mod say;
mod unmovable;

pub use backoff::Backoff;
pub use file_system::is_of_this_machine;
pub use pending_file::{PendingFile, remove_abandoned};
pub use reserve::Reserve;
pub use room::{free_space, in_words};
pub use same_file::is_same_file;
pub use say::{say_at_once, say_last, say_line};
pub use unmovable::Unmovable;
