//! What the fuzz targets `template` and `placeholder` check, over their corpora and over what becomes of those by chance:
//! a little of what `fuzz/` does. That of `schedule` is in tests/calendar.

mod any_placeholder;
mod any_template;
#[path = "../calendar/chance.rs"]
mod chance;
mod garbage;
mod simple;
