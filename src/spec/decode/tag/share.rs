//! Defines the weights of the services that share a route, by the shares that their instances ask for. Pure.

/// The shares of a route's parts, each with the share that one instance asks for and its numbers of instances (usable
/// and registered). As fabio has it: a share belongs to an instance; what is left is for those that ask for none, in
/// equal parts; more than the whole is scaled down, and without anybody who asks for none, up.
pub(super) fn weights(parts: &[(Option<f64>, usize, usize)]) -> Vec<u32> {
    const WHOLE: f64 = 1_000_000.0;
    if let [_] = parts {
        return vec![1];
    }
    let any_usable = parts.iter().any(|(_, usable, _)| *usable > 0);
    let counts = parts.iter().map(|(share, usable, registered)| {
        let count = if any_usable { *usable } else { *registered };
        (*share, u32::try_from(count).unwrap_or(u32::MAX))
    });
    let counts: Vec<(Option<f64>, u32)> = counts.collect();
    if counts.iter().all(|(share, count)| share.is_none() || *count == 0) {
        return counts.iter().map(|(share, count)| if share.is_none() { (*count).min(1_000_000) } else { 0 }).collect();
    }
    let fixed: f64 = counts.iter().map(|(share, count)| share.unwrap_or_default() * f64::from(*count)).sum();
    let open: u32 = counts.iter().filter(|(share, _)| share.is_none()).map(|(_, count)| *count).sum();
    let scale = if fixed > 1.0 || open == 0 { 1.0 / fixed } else { 1.0 };
    let left = (1.0 - fixed).max(0.0);
    let of = |(share, count): &(Option<f64>, u32)| {
        let part = match share {
            Some(share) => share * f64::from(*count) * scale,
            None if open == 0 => 0.0,
            None => left * f64::from(*count) / f64::from(open),
        };
        // Whoever has a share gets some of it.
        if part > 0.0 { ((part * WHOLE).round() as u32).max(1) } else { 0 }
    };
    counts.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_fabios() {
        let (open, of) = (None, Some);
        for (parts, wanted) in [
            (&[(open, 3, 3)][..], &[1][..]),
            (&[(open, 3, 3), (open, 1, 1)], &[3, 1]),
            (&[(of(0.2), 1, 1), (open, 1, 1)], &[200_000, 800_000]),
            (&[(of(0.2), 2, 2), (open, 3, 3)], &[400_000, 600_000]),
            (&[(of(0.2), 1, 1), (of(0.2), 1, 1)], &[500_000, 500_000]),
            (&[(of(2.0), 1, 1), (of(2.0), 1, 1), (open, 1, 1)], &[500_000, 500_000, 0]),
            (&[(of(0.2), 0, 4), (open, 1, 1)], &[0, 1]),
            (&[(of(0.5), 0, 1), (open, 0, 1)], &[500_000, 500_000]),
            (&[(of(1e-9), 1, 1), (open, 1, 1)], &[1, 1_000_000]),
        ] {
            assert_eq!(weights(parts), wanted, "{parts:?}");
        }
    }
}
