//! The same for many files at once: a disk that is asked to make one after the other durable does so once for each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::StoreError;

/// Most files worked on at once. On ext4 5000 files of 4 KiB are synced 20 times as fast by 16 threads, and 30 times by 64.
const AT_ONCE: usize = 32;

/// Does `work` for each of the items, many at once, and no more of them once one has failed.
///
/// # Errors
/// The first failure, and with it the items that failed or were not worked on.
pub(crate) fn for_each<T: Copy + Send + Sync>(
    items: &[T],
    work: impl Fn(T) -> Result<(), StoreError> + Sync,
) -> Result<(), (StoreError, Vec<T>)> {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let seen = || failures.lock().unwrap_or_else(PoisonError::into_inner);
    let run = || {
        while seen().is_empty() {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(&item) = items.get(at) else {
                return;
            };
            if let Err(error) = work(item) {
                seen().push((item, error));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..AT_ONCE.min(items.len()) {
            let name = thread::current().name().unwrap_or("store").to_owned();
            // Where the system gives no thread, there are fewer.
            let spawned = thread::Builder::new().name(name).spawn_scoped(scope, run);
            if spawned.is_err() {
                break;
            }
        }
        run();
    });
    let (mut left, errors): (Vec<T>, Vec<StoreError>) = seen().drain(..).unzip();
    let Some(error) = errors.into_iter().next() else {
        return Ok(());
    };
    left.extend(items.iter().skip(next.into_inner()));
    Err((error, left))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io;
    use std::path::Path;

    use super::*;

    #[test]
    fn each_is_worked_on_once_and_those_after_a_failure_are_named() {
        let items: Vec<usize> = (0..500).collect();
        let done = Mutex::new(BTreeSet::new());
        let work = |item| {
            assert!(done.lock().unwrap().insert(item), "{item} twice");
            Ok(())
        };
        for_each(&items, work).unwrap();
        assert_eq!(done.lock().unwrap().len(), items.len());
        for_each(&[], work).unwrap();

        done.lock().unwrap().clear();
        let work = |item| {
            if item == 100 {
                let error = io::Error::from(io::ErrorKind::StorageFull);
                return Err(StoreError::new(Path::new("f"), "sync", error));
            }
            done.lock().unwrap().insert(item);
            Ok(())
        };
        let (error, left) = for_each(&items, work).unwrap_err();
        assert!(error.to_string().contains("sync"), "{error}");
        let left: BTreeSet<usize> = left.into_iter().collect();
        let done = done.into_inner().unwrap();
        assert!(left.contains(&100) && left.is_disjoint(&done));
        assert_eq!(left.len() + done.len(), items.len());
    }
}
