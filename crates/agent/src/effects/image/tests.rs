use super::*;

#[test]
fn durations_are_written_as_people_know_them() {
    let table = [
        (0, "0s"),
        (56, "56ms"),
        (1_000, "1s"),
        (1_234, "1.234s"),
        (62_500, "1m2.5s"),
        (120_000, "2m0s"),
        (3_661_010, "1h1m1.01s"),
    ];
    for (ms, text) in table {
        assert_eq!(go_duration(Duration::from_millis(ms)), text);
    }
}
