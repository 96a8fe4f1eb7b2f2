//! Limits that no time brings nearer in which this process stood: a suspended machine blames nobody.

use std::future::Future;
use std::time::Duration;
use tokio::time;

const BEAT: Duration = Duration::from_millis(500);

/// What `future` gives, or None once `limit` has passed. A beat counts for no more than its length, however long it
/// took: a process that was stopped in it finds it over.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    tokio::pin!(future);
    let mut left = limit;
    while !left.is_zero() {
        let beat = left.min(BEAT);
        if let Ok(output) = time::timeout(beat, &mut future).await {
            return Some(output);
        }
        left -= beat;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::thread;
    use tokio::time::sleep;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn time_in_which_the_process_stood_does_not_count() {
        run(async {
            let limit = BEAT + BEAT / 2;
            let stood = Cell::new(false);
            let answer = async {
                sleep(BEAT / 10).await;
                // Nothing else runs meanwhile, and every limit has passed at the end.
                thread::sleep(2 * limit);
                stood.set(true);
                sleep(BEAT / 10).await;
                7
            };
            assert_eq!(timeout(limit, answer).await, Some(7));
            assert!(stood.get());
        });
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        run(async {
            assert_eq!(timeout(Duration::from_millis(20), std::future::pending::<()>()).await, None);
        });
    }
}
