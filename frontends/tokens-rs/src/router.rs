//! Which rank gets a request: the one with the least expected work, as this front-end sees it.
//!
//! Pure: no I/O, no clock; the random source is handed in. What a rank has to do is our own live requests, counted at
//! once and exactly, plus what it last reported of all others' (`Load::others_*`). Of a few ranks drawn at random the
//! best is taken: several front-ends route on reports that are a step old, and would herd if each took the very best
//! (M. Mitzenmacher, "How Useful Is Old Information?", IEEE TPDS 2000).

use crate::messages::{Load, RankId};
use std::collections::BTreeMap;

/// Ranks looked at for a request; with as many or fewer, all of them.
const CHOICES: usize = 3;
/// Work of a prompt token in output tokens: prompt tokens are computed many at a time.
const PREFILL_WEIGHT: f64 = 0.2;
/// Expected output tokens before any request has finished.
const FIRST_GUESS: f64 = 128.0;
/// Weight of the newest finished request in the running mean of output lengths.
const LEARNING_RATE: f64 = 0.05;

/// SplitMix64 (G. Steele et al., "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
pub struct Chance(pub u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// What this front-end knows of one rank. Work is in output tokens.
#[derive(Debug, Default, Clone)]
pub struct RankView {
    pub own_requests: usize,
    own_prefill: i64,
    own_decode: i64,
    pub load: Option<Load>,
}

impl RankView {
    fn work(&self) -> f64 {
        let others = self.load.as_ref().map_or((0, 0), |load| (load.others_prefill_tokens, load.others_decode_tokens));
        (self.own_prefill + others.0) as f64 * PREFILL_WEIGHT + (self.own_decode + others.1) as f64
    }
}

/// One live request's share of its rank's work.
#[derive(Debug, PartialEq)]
pub struct Placement {
    pub rank: RankId,
    prefill: i64,
    /// Still expected.
    decode: i64,
    /// At the start; travels in Submit.
    pub expected_tokens: usize,
    max_tokens: usize,
    produced: usize,
}

/// Output tokens a live request will likely still take, at least 1. One that outlives its expectation is not nearly
/// done: half the expectation stays until its own limit is nearer.
fn expected_remaining(expected: usize, max_tokens: usize, produced: usize) -> usize {
    let likely = expected.saturating_sub(produced).max(expected / 2);
    likely.min(max_tokens.saturating_sub(produced)).max(1)
}

pub struct Router {
    chance: Chance,
    mean_output: f64,
    order: Vec<RankId>,
    ranks: BTreeMap<RankId, RankView>,
}

impl Router {
    pub fn new(chance: Chance) -> Self {
        Self { chance, mean_output: FIRST_GUESS, order: Vec::new(), ranks: BTreeMap::new() }
    }

    pub fn view(&self, rank: RankId) -> Option<&RankView> {
        self.ranks.get(&rank)
    }

    /// A rank, or a new incarnation of it, can take requests; it starts with nothing to do.
    pub fn attach(&mut self, rank: RankId) {
        self.ranks.insert(rank, RankView::default());
        self.order = self.ranks.keys().copied().collect();
    }

    /// It takes no more. Placements on it are forgotten: releasing one later does nothing.
    pub fn detach(&mut self, rank: RankId) {
        self.ranks.remove(&rank);
        self.order = self.ranks.keys().copied().collect();
    }

    pub fn report(&mut self, rank: RankId, load: Load) {
        if let Some(view) = self.ranks.get_mut(&rank) {
            view.load = Some(load);
        }
    }

    /// Choose a rank and count the request there at once; None if no rank is attached.
    pub fn place(&mut self, prompt_tokens: usize, max_tokens: usize) -> Option<Placement> {
        let count = self.order.len();
        let looked_at = count.min(CHOICES);
        let mut best: Option<(f64, u64, RankId)> = None;
        for position in 0..looked_at {
            if count > CHOICES {
                // The first positions of a shuffle (Fisher and Yates): a draw without repetition.
                let other = position + (self.chance.next() % (count - position) as u64) as usize;
                self.order.swap(position, other);
            }
            let rank = self.order[position];
            // The draw breaks ties: equal ranks must not be taken in the same order by every front-end.
            let (work, draw) = (self.ranks[&rank].work(), self.chance.next());
            if best.map_or(true, |(least, least_draw, _)| (work, draw) < (least, least_draw)) {
                best = Some((work, draw, rank));
            }
        }
        let (_, _, rank) = best?;
        let expected = (self.mean_output.round() as usize).min(max_tokens).max(1);
        let (prefill, decode) = (prompt_tokens as i64, expected as i64);
        let view = self.ranks.get_mut(&rank)?;
        view.own_requests += 1;
        view.own_prefill += prefill;
        view.own_decode += decode;
        Some(Placement { rank, prefill, decode, expected_tokens: expected, max_tokens, produced: 0 })
    }

    /// The request brought `tokens` new tokens: its prompt is computed and so much less is expected.
    pub fn progress(&mut self, placement: &mut Placement, tokens: usize) {
        let Some(view) = self.ranks.get_mut(&placement.rank) else { return };
        view.own_prefill -= placement.prefill;
        placement.prefill = 0;
        placement.produced += tokens;
        let left = expected_remaining(placement.expected_tokens, placement.max_tokens, placement.produced) as i64;
        view.own_decode -= placement.decode - left;
        placement.decode = left;
    }

    /// The request is over. Only one that `finished` by itself teaches what length to expect.
    pub fn release(&mut self, placement: &Placement, finished: bool) {
        if finished {
            self.mean_output += LEARNING_RATE * (placement.produced as f64 - self.mean_output);
        }
        if let Some(view) = self.ranks.get_mut(&placement.rank) {
            view.own_requests -= 1;
            view.own_prefill -= placement.prefill;
            view.own_decode -= placement.decode;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(ranks: u32) -> Router {
        let mut router = Router::new(Chance(7));
        (0..ranks).for_each(|rank| router.attach(rank));
        router
    }

    fn load(others_decode_tokens: i64) -> Load {
        Load {
            others_prefill_tokens: 0,
            others_decode_tokens,
            others_requests: 1,
            running: 1,
            waiting: 0,
            kv_used_tokens: 0,
            kv_total_tokens: 1,
            prefix_query_tokens: 0,
            prefix_hit_tokens: 0,
            preemptions: 0,
            steps: 0,
        }
    }

    #[test]
    fn without_a_rank_there_is_no_place() {
        assert_eq!(router(0).place(1, 1), None);
    }

    #[test]
    fn a_burst_spreads_before_any_report_comes() {
        let mut router = router(3);
        let mut counts = [0; 3];
        for _ in 0..30 {
            counts[router.place(100, 64).unwrap().rank as usize] += 1;
        }
        assert_eq!(counts, [10, 10, 10]);
    }

    #[test]
    fn work_of_others_counts() {
        let mut router = router(2);
        router.report(0, load(1000));
        for _ in 0..7 {
            assert_eq!(router.place(10, 1000).unwrap().rank, 1);
        }
        // 128 expected tokens and the prompts are more than 1,000 with the eighth.
        router.place(10, 1000).unwrap();
        assert_eq!(router.place(10, 1000).unwrap().rank, 0);
    }

    #[test]
    fn what_is_released_leaves_nothing_behind() {
        let mut router = router(8);
        let mut live: Vec<Placement> = (0..500).map(|n| router.place(n % 90, 1 + n % 700).unwrap()).collect();
        for (number, placement) in live.iter_mut().enumerate() {
            for _ in 0..number % 300 {
                router.progress(placement, 1);
            }
        }
        live.iter().for_each(|placement| router.release(placement, false));
        for view in router.ranks.values() {
            assert_eq!((view.own_requests, view.own_prefill, view.own_decode), (0, 0, 0));
        }
    }

    #[test]
    fn many_ranks_are_all_used() {
        let mut router = router(16);
        for _ in 0..1600 {
            router.place(1, 1).unwrap();
        }
        let counts: Vec<usize> = router.ranks.values().map(|view| view.own_requests).collect();
        assert!(*counts.iter().min().unwrap() > 80 && *counts.iter().max().unwrap() < 120, "{counts:?}");
    }

    #[test]
    fn finished_requests_teach_the_expected_length_and_aborted_ones_do_not() {
        let mut router = router(1);
        for _ in 0..200 {
            let mut placement = router.place(1, 2000).unwrap();
            router.progress(&mut placement, 1000);
            router.release(&placement, true);
        }
        let learnt = router.place(1, 2000).unwrap().expected_tokens;
        assert!((990..=1000).contains(&learnt), "{learnt}");
        let aborted = router.place(1, 2000).unwrap();
        router.release(&aborted, false);
        assert_eq!(router.place(1, 2000).unwrap().expected_tokens, learnt);
        assert_eq!(router.place(1, 20).unwrap().expected_tokens, 20);
    }

    #[test]
    fn a_rank_that_has_gone_takes_its_counts_with_it() {
        let mut router = router(2);
        let mut placements: Vec<Placement> = (0..4).map(|_| router.place(1, 10).unwrap()).collect();
        router.detach(0);
        router.attach(0);
        for placement in &mut placements {
            if placement.rank == 1 {
                router.progress(placement, 1);
                router.release(placement, true);
            }
        }
        assert_eq!(router.view(0).unwrap().own_requests, 0);
        assert_eq!(router.view(1).unwrap().own_requests, 0);
        router.detach(1);
        assert_eq!(router.place(1, 1).unwrap().rank, 0);
    }

    #[test]
    fn a_request_that_outlives_its_expectation_is_not_nearly_done() {
        assert_eq!(expected_remaining(100, 1000, 0), 100);
        assert_eq!(expected_remaining(100, 1000, 400), 50);
        assert_eq!(expected_remaining(100, 1000, 990), 10);
        assert_eq!(expected_remaining(100, 1000, 1000), 1);
    }
}
