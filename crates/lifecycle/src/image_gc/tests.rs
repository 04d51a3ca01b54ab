use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy { high_percent: 85, low_percent: 80, min_age_ms: 120_000, max_age_ms: None };
const NOW_MS: Millis = 10_000_000;

fn image(id: &str, detected_ms: Millis, used_ms: Option<Millis>) -> Image {
    Image { id: id.to_owned(), in_use: false, pinned: false, detected_ms, used_ms }
}

fn disk(available_bytes: u64) -> Disk {
    Disk { capacity_bytes: 1_000, available_bytes }
}

/// What goes if each removal frees so much.
fn removed(mut round: Round, mut disk: Disk, each_bytes: u64) -> Vec<String> {
    let mut ids = Vec::new();
    while let Some(id) = round.next(disk) {
        ids.push(id);
        disk.available_bytes += each_bytes;
    }
    ids
}

fn round(policy: &Policy, images: &[Image], disk: Disk) -> Round {
    Round::new(policy, images, disk, (0, NOW_MS))
}

#[test]
fn f_f01_at_85_percent_images_go_until_80() {
    let images: Vec<Image> = (0..9).map(|n| image(&format!("i{n}"), 0, Some(n))).collect();
    for (available, expected) in [(1_000, 0), (160, 0), (159, 5), (150, 5), (141, 6), (140, 6), (0, 9)] {
        let went = removed(round(&POLICY, &images, disk(available)), disk(available), 10);
        assert_eq!(went.len(), expected, "{available} of 1000 free");
    }
}

#[test]
fn the_used_share_is_rounded_up() {
    for (available, percent) in [(1_000, 0), (999, 1), (151, 85), (150, 85), (149, 86), (0, 100), (2_000, 0)] {
        assert_eq!(disk(available).used_percent(), percent, "{available}");
    }
    assert_eq!(Disk { capacity_bytes: 0, available_bytes: 0 }.used_percent(), 100);
    let whole = Disk { capacity_bytes: u64::MAX, available_bytes: u64::MAX / 10 };
    assert_eq!(whole.used_percent(), 91);
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let images = [
        image("used late", 0, Some(9_000)),
        image("never used, known late", 7_000, None),
        image("never used, known early", 10, None),
        image("used early", 5_000, Some(6_000)),
        image("used early, known earlier", 4_000, Some(6_000)),
    ];
    let went = removed(round(&POLICY, &images, disk(0)), disk(0), 1);
    assert_eq!(
        went,
        ["never used, known early", "never used, known late", "used early, known earlier", "used early", "used late"]
    );
    assert_eq!(removed(Round::all(&images), disk(1_000), 1), went);
}

#[test]
fn f_f01_what_is_used_pinned_or_young_stays() {
    let images = [
        Image { in_use: true, ..image("used", 0, None) },
        Image { pinned: true, ..image("pinned", 0, None) },
        image("young", NOW_MS - 119_999, None),
        image("old enough", NOW_MS - 120_000, None),
    ];
    assert_eq!(removed(round(&POLICY, &images, disk(0)), disk(0), 1), ["old enough"]);
    assert_eq!(removed(Round::all(&images), disk(0), 1), ["old enough", "young"], "who asks for all means all");
}

#[test]
fn what_is_still_wanting_is_told() {
    let mut round = round(&POLICY, &[image("i", 0, None)], disk(50));
    assert_eq!(round.missing_bytes(disk(50)), 150);
    assert_eq!(round.next(disk(50)), Some("i".to_owned()));
    assert_eq!(round.missing_bytes(disk(120)), 80);
    assert_eq!(round.next(disk(120)), None);
    assert_eq!(round.missing_bytes(disk(500)), 0);
}

#[test]
fn what_was_not_used_for_too_long_goes_without_need() {
    let policy = Policy { max_age_ms: Some(1_000_000), ..POLICY };
    let images = [
        image("idle", 0, Some(NOW_MS - 1_000_001)),
        image("not yet", 0, Some(NOW_MS - 1_000_000)),
        image("never used, new", NOW_MS - 500_000, None),
        image("never used, old", NOW_MS - 2_000_000, None),
        Image { in_use: true, ..image("used", 0, None) },
    ];
    let went = removed(round(&policy, &images, disk(1_000)), disk(1_000), 0);
    assert_eq!(went, ["never used, old", "idle"]);
    let young_kubelet = Round::new(&policy, &images, disk(1_000), (NOW_MS - 1_000_000, NOW_MS));
    assert_eq!(removed(young_kubelet, disk(1_000), 0), Vec::<String>::new(), "who was not there to see it cannot say");
}

#[test]
fn a_hundred_percent_is_never() {
    let policy = Policy { high_percent: 100, ..POLICY };
    assert!(policy.is_idle());
    assert!(!Policy { max_age_ms: Some(1), ..policy }.is_idle());
    assert!(removed(round(&policy, &[image("i", 0, None)], disk(0)), disk(0), 0).is_empty());
}

fn any_image() -> impl Strategy<Value = Image> {
    let used = proptest::option::of(0..NOW_MS);
    (any::<bool>(), any::<bool>(), 0..NOW_MS, used).prop_map(|(in_use, pinned, detected_ms, used_ms)| Image {
        id: String::new(),
        in_use,
        pinned,
        detected_ms,
        used_ms,
    })
}

fn any_images() -> impl Strategy<Value = Vec<(Image, u64)>> {
    vec((any_image(), 0..300_u64), 0..20).prop_map(|images| {
        let number = |(at, (image, frees)): (usize, (Image, u64))| (Image { id: format!("i{at}"), ..image }, frees);
        images.into_iter().enumerate().map(number).collect()
    })
}

proptest! {
    #[test]
    fn f_f01_nothing_goes_that_must_stay_and_no_more_than_needed(
        images in any_images(),
        (high, low) in (1..=100_u8).prop_flat_map(|high| (Just(high), 0..high)),
        max_age_ms in proptest::option::of(0..NOW_MS),
        available_bytes in 0..1_000_u64,
    ) {
        let policy = Policy { high_percent: high, low_percent: low, min_age_ms: 120_000, max_age_ms };
        let mut disk = disk(available_bytes);
        let listed: Vec<Image> = images.iter().map(|(image, _)| image.clone()).collect();
        let mut round = Round::new(&policy, &listed, disk, (0, NOW_MS));
        let target = (high < 100 && disk.used_percent() >= high).then(|| u64::from(100 - low) * 10);
        let outdated = |image: &Image| {
            let idle_ms = NOW_MS - image.used_ms.unwrap_or(0).max(image.detected_ms);
            max_age_ms.is_some_and(|max| idle_ms > max)
        };
        let mut went: Vec<&Image> = Vec::new();
        while let Some(id) = round.next(disk) {
            let (image, frees) = images.iter().find(|(image, _)| image.id == id).unwrap();
            prop_assert!(!image.in_use && !image.pinned && NOW_MS - image.detected_ms >= 120_000, "{image:?}");
            prop_assert!(!went.iter().any(|gone| gone.id == id), "twice: {id}");
            prop_assert!(outdated(image) || target.is_some_and(|target| disk.available_bytes < target), "{id} without need");
            if let Some(last) = went.last().filter(|last| outdated(last) == outdated(image)) {
                prop_assert!((last.used_ms, last.detected_ms) <= (image.used_ms, image.detected_ms), "out of order");
            }
            went.push(image);
            disk.available_bytes += frees;
        }
        let enough = target.is_none_or(|target| disk.available_bytes >= target);
        prop_assert_eq!(round.missing_bytes(disk) == 0, enough);
        for (image, _) in images.iter().filter(|(image, _)| !went.iter().any(|gone| gone.id == image.id)) {
            let may_go = !image.in_use && !image.pinned && NOW_MS - image.detected_ms >= 120_000;
            prop_assert!(!may_go || enough && !outdated(image), "left behind: {image:?}");
        }
    }
}
