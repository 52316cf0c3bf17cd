//! The expressions of the comparison: those that people write, those that are known to go wrong, and some by chance.

use crate::chance::Chance;

/// What the comparison has at least.
pub const COUNT: usize = 200;

const WRITTEN: &[&str] = &[
    // What the clock shows, all day.
    "* * * * *",
    "*/5 * * * *",
    "*/15 * * * *",
    "*/7 * * * *",
    "0 * * * *",
    "30 * * * *",
    "59 * * * *",
    "0,30 * * * *",
    "5/20 * * * *",
    "15-45/10 * * * *",
    "0 */2 * * *",
    "0 */3 * * *",
    "0 */5 * * *",
    "*/10 2 * * *",
    "*/30 0-3 * * *",
    "* 2 * * *",
    "* 1 * * *",
    "* 0 * * *",
    "* 3 * * SUN",
    "*/20 23 * * *",
    "0,1,2 */1 * * *",
    "45 *,3 * * *",
    // Once a day, where clocks are changed.
    "0 0 * * *",
    "1 0 * * *",
    "15 0 * * *",
    "30 0 * * *",
    "59 0 * * *",
    "0 1 * * *",
    "15 1 * * *",
    "30 1 * * *",
    "45 1 * * *",
    "59 1 * * *",
    "0 2 * * *",
    "1 2 * * *",
    "15 2 * * *",
    "30 2 * * *",
    "45 2 * * *",
    "59 2 * * *",
    "0 3 * * *",
    "30 3 * * *",
    "45 3 * * *",
    "0 4 * * *",
    "0 12 * * *",
    "30 23 * * *",
    "59 23 * * *",
    "44 3 * * *",
    // Some times a day: several of them in one gap, one at its end, one before it.
    "0 2,14 * * *",
    "0,30 2 * * *",
    "10,20,30 2 * * *",
    "0 2,3 * * *",
    "30 1,2,3 * * *",
    "0-59 2 * * *",
    "0-59/7 1-3 * * *",
    "0 0-23 * * *",
    "30 0-23/2 * * *",
    "0,15,30,45 0-4 * * *",
    "5 0,1,2,3,4 * * *",
    "0 0,12 * * *",
    "59 0,1,2,3,23 * * *",
    // Days.
    "0 9 * * 1-5",
    "0 9 * * MON-FRI",
    "30 2 * * 0",
    "30 2 * * 7",
    "30 2 * * sun",
    "30 1 * * SAT,SUN",
    "30 1 * * 6,0",
    "0 0 1 * *",
    "30 2 1-7 * *",
    "0 0 31 * *",
    "0 0 30 * *",
    "0 0 29 2 *",
    "30 0 28-31 * *",
    "15 3 */2 * *",
    "0 0 */10 * *",
    "0 2 8-14 3 *",
    "0 1 25-31 3,10 *",
    "30 2 30 12 *",
    "0 0 30,31 12 *",
    "15 10 1 1 *",
    "0 0 1 */3 *",
    "0 5 1 JAN,JUL *",
    "30 1 * 3,10,11 *",
    "0 0 * APR-OCT FRI",
    "0 0 * 4,8,10 THU,FRI,SAT",
    // Either day, or both.
    "0 0 13 * FRI",
    "30 2 1 * SUN",
    "30 1 1,15 * MON-WED",
    "0 0 */2 * MON",
    "0 0 1 * *",
    "0 0 13 * ?",
    "0 0 ? * FRI",
    "0 3 8-14 * */2",
    "0 2 1-7 * 0",
    "0 2 * * FRI-SUN",
    "0 2 * * SAT-SUN",
    "0 2 * * 5-7",
    "0 2 * * 0-7",
    "0 2 * * 1/2",
    "0 2 * * SUN-TUE",
    "0 2 * * Monday-Wednesday",
    "0 2 1 * */2",
    "0 2 5,6 * 1-7/3",
    // Seconds first.
    "0 0 2 * * *",
    "0 30 2 * * ?",
    "30 30 2 * * *",
    "59 59 1 * * *",
    "0 0 0 * * SUN",
    "*/30 30 1 * * SUN",
    "15,45 0 3 * * *",
    "0 */20 * * * *",
    "30 */20 * * * *",
    "10/20 59 * * * *",
    "* 0 2 * * SUN",
    "* 59 1 * * SUN",
    "* 0 0 * * SUN,FRI",
    "0 0 0 13 * FRI",
    "0 30 2 1-7 * SUN",
    "0 30 2 8-14 MAR SUN",
    "0 30 1 25-31 OCT SUN",
    "30 0 0 29 2 ?",
    // And the year.
    "0 30 2 * * * 2026",
    "0 30 2 * * ? 2010-2012",
    "0 0 0 1 1 ? 2011,2012,2026,2027",
    "0 30 1 * 10,11 SUN 2010/2",
    "0 0 0 30 12 * 2011",
    "30 59 23 * * * 2026-2100/3",
    // Macros.
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
];

/// At least [`COUNT`] expressions, none twice.
pub fn all() -> Vec<String> {
    let seed = std::env::var("NOXD_CALENDAR_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut chance = Chance::seeded(seed);
    let mut all: Vec<String> = Vec::new();
    for written in WRITTEN {
        if !all.iter().any(|known| known == written) {
            all.push((*written).to_string());
        }
    }
    while all.len() < COUNT {
        let made = by_chance(&mut chance);
        if !all.contains(&made) {
            all.push(made);
        }
    }
    all
}

/// An expression near those hours at which clocks are changed.
fn by_chance(chance: &mut Chance) -> String {
    let minute = field(chance, 0, 59, &["0", "*", "*/15", "30"]);
    let hour = field(chance, 0, 4, &["*", "2", "1,2,3", "*/2"]);
    let day = field(chance, 1, 28, &["*", "*", "*", "*", "?"]);
    let month = field(chance, 1, 12, &["*", "*", "*", "MAR-NOV"]);
    let names = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    let weekday = match chance.below(4) {
        0 => chance.pick(&names).to_string(),
        1 => format!("{}-{}", names[chance.below(4)], names[3 + chance.below(4)]),
        _ => "*".to_string(),
    };
    match chance.below(6) {
        0 => format!("{} {minute} {hour} {day} {month} {weekday}", field(chance, 0, 59, &["0", "30"])),
        _ => format!("{minute} {hour} {day} {month} {weekday}"),
    }
}

fn field(chance: &mut Chance, least: usize, most: usize, plain: &[&str]) -> String {
    let low = least + chance.below(most - least);
    let high = low + 1 + chance.below(most - low);
    match chance.below(7) {
        0 => low.to_string(),
        1 => format!("{low},{high}"),
        2 => format!("{low}-{high}"),
        3 if high - low > 1 => format!("{low}-{high}/2"),
        4 => format!("{high},{low}-{high}"),
        _ => chance.pick(plain).to_string(),
    }
}
