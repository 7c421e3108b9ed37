//! The same for each of many things, on as many threads as the machine has.

use std::thread;

/// `work` of each of `items`, in their order.
pub(crate) fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let share = items.len().div_ceil(threads).max(1);
    let work = &work;
    thread::scope(|scope| {
        let workers: Vec<_> =
            items.chunks(share).map(|items| scope.spawn(move || items.iter().map(work).collect())).collect();
        let mut all = Vec::with_capacity(items.len());
        for worker in workers {
            // A panic goes on as if the work had been done here.
            let part: Vec<R> = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.extend(part);
        }
        all
    })
}
