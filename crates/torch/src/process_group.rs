//! Ranks that work on one run: the store that they meet at, and what they do together, by torch.distributed's C++ core (c10d).

use crate::error::{Error, Result};
use crate::ffi;
use crate::gradient_checkpoint::check;
use crate::nccl::Nccl;
use std::ffi::{CString, c_int, c_void};
use std::ptr::NonNull;
use std::time::Duration;
use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

/// Keys and bytes that all ranks read and write: a `TCPStore`, which one of them hosts, or an agent of theirs.
///
/// A call waits as long as the host keeps the connection and says nothing, however long that is: whoever must not be held up by a host
/// that stands still asks in a thread of its own, with a store of its own.
#[derive(Debug)]
pub struct Store {
    store: NonNull<c_void>,
}

#[expect(unsafe_code, reason = "c10d's stores take a lock around each call")]
unsafe impl Send for Store {}
#[expect(unsafe_code, reason = "as above")]
unsafe impl Sync for Store {}

/// Where a store is, and how it is used.
#[derive(Debug, Clone)]
pub struct StoreAddress {
    /// Name or address of the machine that hosts it.
    pub host: String,
    /// Its port there.
    pub port: u16,
    /// Put before every key, so that another start of the same ranks finds nothing of this one.
    pub prefix: String,
    /// How long is waited for the host, and for a key that is not there.
    pub timeout: Duration,
}

impl Store {
    /// Connects to the store; `is_host` makes it first.
    ///
    /// # Errors
    /// Where it cannot be reached in time, or its port is taken.
    pub fn connect(address: &StoreAddress, is_host: bool) -> Result<Store> {
        let (host, prefix) = (text(&address.host)?, text(&address.prefix)?);
        let mut store = std::ptr::null_mut();
        let timeout = milliseconds(address.timeout);
        #[expect(unsafe_code, reason = "FFI: the texts live through the call; the store is ours on success")]
        let status = unsafe {
            ffi::sd_store_connect(
                host.as_ptr(),
                address.port,
                c_int::from(is_host),
                timeout,
                prefix.as_ptr(),
                &raw mut store,
            )
        };
        check(status)?;
        Ok(Store { store: held(store)? })
    }

    /// Writes `value` under `key`, whatever was there.
    ///
    /// # Errors
    /// Where the store cannot be reached any more; the same for the others.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        let key = text(key)?;
        #[expect(unsafe_code, reason = "FFI: key and value live through the call")]
        check(unsafe { ffi::sd_store_set(self.store.as_ptr(), key.as_ptr(), value.as_ptr(), value.len()) })
    }

    /// The value under `key`, which is waited for.
    ///
    /// # Errors
    /// Also where it does not come in time.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        #[expect(unsafe_code, reason = "called by the shim with its own bytes and the vector of the call below")]
        unsafe extern "C" fn take(target: *mut c_void, data: *const u8, length: usize) {
            let target = target.cast::<Vec<u8>>();
            if length > 0 {
                // SAFETY: see the reason above.
                unsafe { (*target).extend_from_slice(std::slice::from_raw_parts(data, length)) };
            }
        }
        let key = text(key)?;
        let mut value: Vec<u8> = Vec::new();
        #[expect(unsafe_code, reason = "FFI: `take` is called within the call alone, with the vector above")]
        check(unsafe { ffi::sd_store_get(self.store.as_ptr(), key.as_ptr(), (&raw mut value).cast(), take) })?;
        Ok(value)
    }

    /// Whether there is a value under `key`.
    ///
    /// # Errors
    /// As above.
    pub fn has(&self, key: &str) -> Result<bool> {
        let key = text(key)?;
        let mut found = 0;
        #[expect(unsafe_code, reason = "FFI: the key lives through the call")]
        check(unsafe { ffi::sd_store_has(self.store.as_ptr(), key.as_ptr(), &raw mut found) })?;
        Ok(found != 0)
    }

    /// Adds `amount` to the number under `key`, 0 where there is none; the sum.
    ///
    /// # Errors
    /// As above.
    pub fn add(&self, key: &str, amount: i64) -> Result<i64> {
        let key = text(key)?;
        let mut sum = 0;
        #[expect(unsafe_code, reason = "FFI: the key lives through the call")]
        check(unsafe { ffi::sd_store_add(self.store.as_ptr(), key.as_ptr(), amount, &raw mut sum) })?;
        Ok(sum)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "FFI: the store is ours and is used no more")]
        unsafe {
            ffi::sd_store_free(self.store.as_ptr());
        }
    }
}

/// Ranks that work together, as c10d's `ProcessGroup` over Gloo, and over NCCL where it was added. All of them make the same calls in the same order; each call returns
/// when this rank's part is done.
#[derive(Debug)]
pub struct ProcessGroup {
    group: NonNull<c_void>,
    rank: usize,
    size: usize,
}

#[expect(
    unsafe_code,
    reason = "the group is counted by atomics; its calls are made by one thread at a time through `&self` of one owner"
)]
unsafe impl Send for ProcessGroup {}

impl ProcessGroup {
    /// Joins the group of `size` ranks that meet at `store`. A call of this group waits up to `timeout` for the others. `address`: where
    /// the others reach this rank; absent, what this machine's name resolves to, else the loopback.
    ///
    /// # Errors
    /// Where some do not come within the store's own timeout, or no connection between two can be made.
    pub fn gloo(
        store: &Store,
        rank: usize,
        size: usize,
        timeout: Duration,
        address: Option<&str>,
    ) -> Result<ProcessGroup> {
        let address = address.map(text).transpose()?;
        let mut group = std::ptr::null_mut();
        #[expect(unsafe_code, reason = "FFI: store and text live through the call; the group is ours on success")]
        let status = unsafe {
            ffi::sd_group_gloo(
                store.store.as_ptr(),
                rank as c_int,
                size as c_int,
                milliseconds(timeout),
                address.as_ref().map_or(std::ptr::null(), |address| address.as_ptr()),
                &raw mut group,
            )
        };
        check(status)?;
        Ok(ProcessGroup { group: held(group)?, rank, size })
    }

    /// Lets tensors on a GPU travel by NCCL from now on, and those on the processor by Gloo as before. `store` is where the group met,
    /// `device` the number of this rank's GPU, which no other rank may have. A call with tensors on a GPU waits for the others as long as
    /// the group's timeout.
    ///
    /// # Errors
    /// Where NCCL is of another version, or finds no way between the GPUs.
    pub fn add_nccl(&self, nccl: &Nccl, store: &Store, device: usize) -> Result<()> {
        nccl.add_to(self.group.as_ptr(), store.store.as_ptr(), device)
    }

    /// This one's number among them.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Every number of `values` becomes the sum over all ranks, the same bits at each.
    ///
    /// # Errors
    /// Where a rank is gone or does not answer in time; the same for the others.
    pub fn all_reduce(&self, values: &Tensor) -> Result<()> {
        #[expect(unsafe_code, reason = "FFI: group and tensor live through the call")]
        check(unsafe { ffi::sd_group_all_reduce(self.group.as_ptr(), pointer(values), 0) })
    }

    /// Every number of `values` becomes the largest over all ranks.
    ///
    /// # Errors
    /// As above.
    pub fn all_reduce_largest(&self, values: &Tensor) -> Result<()> {
        #[expect(unsafe_code, reason = "FFI: group and tensor live through the call")]
        check(unsafe { ffi::sd_group_all_reduce(self.group.as_ptr(), pointer(values), 1) })
    }

    /// `values` becomes what it is at rank `root`.
    ///
    /// # Errors
    /// As above.
    pub fn broadcast(&self, values: &Tensor, root: usize) -> Result<()> {
        #[expect(unsafe_code, reason = "FFI: group and tensor live through the call")]
        check(unsafe { ffi::sd_group_broadcast(self.group.as_ptr(), pointer(values), root as c_int) })
    }

    /// `all`, of `size` times as many numbers, gets the `own` of every rank, that of rank 0 first.
    ///
    /// # Errors
    /// As above.
    pub fn all_gather(&self, all: &Tensor, own: &Tensor) -> Result<()> {
        #[expect(unsafe_code, reason = "FFI: group and tensors live through the call")]
        check(unsafe { ffi::sd_group_all_gather(self.group.as_ptr(), pointer(all), pointer(own)) })
    }

    /// `own` gets this rank's part of the sum of every rank's `all`, which has `size` times as many numbers.
    ///
    /// # Errors
    /// As above.
    pub fn reduce_scatter(&self, own: &Tensor, all: &Tensor) -> Result<()> {
        #[expect(unsafe_code, reason = "FFI: group and tensors live through the call")]
        check(unsafe { ffi::sd_group_reduce_scatter(self.group.as_ptr(), pointer(own), pointer(all)) })
    }

    /// Waits until every rank is here: by a sum. c10d's own barrier over Gloo holds weak pointers to operations that end meanwhile, and
    /// with several groups in a process the memory was corrupt after some hundred of them.
    ///
    /// # Errors
    /// As above.
    pub fn barrier(&self) -> Result<()> {
        self.all_reduce(&Tensor::zeros([1], (Kind::Float, Device::Cpu)))
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        #[expect(
            unsafe_code,
            reason = "FFI: the group is ours and is used no more; a reducer of it counts it on its own"
        )]
        unsafe {
            ffi::sd_group_free(self.group.as_ptr());
        }
    }
}

/// Adds up the gradients of all ranks while the backward pass still goes on: c10d's `Reducer`, the engine under
/// DistributedDataParallel. From its making on, the gradients are views of its buckets: they may be zeroed, and never replaced.
///
/// Reducers of the same parameters in the same order add up to the same bits in every pass, the first as well, in whatever process.
#[derive(Debug)]
pub struct Reducer {
    reducer: NonNull<c_void>,
}

impl Reducer {
    /// For these parameters, in the order in which their gradients come: buckets are filled by it. Each must get a gradient in every
    /// backward pass that is to be added up. All ranks make theirs together, of the same list.
    ///
    /// # Errors
    /// Where they differ in device, or one wants no gradient; where a rank is gone.
    pub fn new(group: &ProcessGroup, parameters: &[Tensor]) -> Result<Reducer> {
        let list: Vec<*mut C_tensor> = parameters.iter().map(pointer).collect();
        let mut reducer = std::ptr::null_mut();
        #[expect(unsafe_code, reason = "FFI: group and list live through the call; the reducer is ours on success")]
        let status =
            unsafe { ffi::sd_reducer_new(group.group.as_ptr(), list.as_ptr(), list.len() as c_int, &raw mut reducer) };
        check(status)?;
        Ok(Reducer { reducer: held(reducer)? })
    }

    /// Before the forward pass whose backward pass adds up what was accumulated till then.
    ///
    /// # Errors
    /// Where the pass before was not ended, and as with the group.
    pub fn begin_pass(&mut self) -> Result<()> {
        #[expect(unsafe_code, reason = "FFI: the reducer lives through the call")]
        check(unsafe { ffi::sd_reducer_begin(self.reducer.as_ptr()) })
    }

    /// After the backward pass: the gradients are sums over all ranks.
    ///
    /// # Errors
    /// Where a parameter got no gradient, so that its bucket still waits.
    pub fn end_pass(&mut self) -> Result<()> {
        #[expect(unsafe_code, reason = "FFI: the reducer lives through the call")]
        check(unsafe { ffi::sd_reducer_end(self.reducer.as_ptr()) })
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "FFI: the reducer is ours and is used no more")]
        unsafe {
            ffi::sd_reducer_free(self.reducer.as_ptr());
        }
    }
}

fn pointer(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr() as *mut C_tensor
}

fn held(pointer: *mut c_void) -> Result<NonNull<c_void>> {
    NonNull::new(pointer).ok_or_else(|| Error::Torch("the shim gave nothing".into()))
}

fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Torch(format!("{text:?} holds a zero byte")))
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// What each of `size` ranks, threads of this process, makes of `work`.
    fn among<T: Send + 'static>(size: usize, work: fn(&Store, &ProcessGroup) -> T) -> Vec<T> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let address =
            StoreAddress { host: "127.0.0.1".into(), port, prefix: "test".into(), timeout: Duration::from_secs(60) };
        let rank = |rank| {
            let address = address.clone();
            thread::spawn(move || {
                let store = Store::connect(&address, rank == 0).unwrap_or_else(|error| panic!("{error}"));
                let group = ProcessGroup::gloo(&store, rank, size, address.timeout, Some("127.0.0.1"));
                let group = group.unwrap_or_else(|error| panic!("{error}"));
                let found = work(&store, &group);
                group.barrier().unwrap_or_else(|error| panic!("{error}"));
                found
            })
        };
        let ranks: Vec<_> = (0..size).map(rank).collect();
        ranks.into_iter().map(|rank| rank.join().expect("no rank panics")).collect()
    }

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.flatten(0, -1).to_kind(Kind::Double)).expect("numbers")
    }

    #[test]
    fn ranks_do_arithmetic_together() {
        let found = among(3, |store, group| {
            let rank = group.rank() as f64;
            let own = || Tensor::from_slice(&[1.0, rank, rank * rank]);
            let (sum, largest, first) = (own(), own(), own());
            group.all_reduce(&sum).expect("all are here");
            group.all_reduce_largest(&largest).expect("all are here");
            group.broadcast(&first, 2).expect("all are here");
            let all = Tensor::zeros([3, 3], (Kind::Double, Device::Cpu));
            group.all_gather(&all, &own()).expect("all are here");
            let part = Tensor::zeros([3], (Kind::Double, Device::Cpu));
            group.reduce_scatter(&part, &all).expect("all are here");
            store.set(&format!("key/{}", group.rank()), b"value").expect("the store is there");
            assert_eq!(store.get("key/1").expect("it comes"), b"value");
            assert!(!store.has("other").expect("the store is there"));
            let count = store.add("count", 1).expect("the store is there");
            (count, [sum, largest, first, all, part].map(|tensor| numbers(&tensor)))
        });
        let mut counts: Vec<i64> = found.iter().map(|(count, _)| *count).collect();
        counts.sort();
        assert_eq!(counts, [1, 2, 3]);
        for (rank, (_, [sum, largest, first, all, part])) in found.iter().enumerate() {
            assert_eq!((&sum[..], &largest[..]), (&[3.0, 3.0, 5.0][..], &[1.0, 2.0, 4.0][..]));
            assert_eq!(first, &[1.0, 2.0, 4.0]);
            assert_eq!(all, &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0, 4.0]);
            let square = (rank * rank) as f64;
            assert_eq!(part, &[3.0, 3.0 * rank as f64, 3.0 * square]);
        }
    }

    #[test]
    fn a_reducer_adds_up_what_was_accumulated() {
        let found = among(2, |_, group| {
            let rank = group.rank() as f64;
            let parameters: Vec<Tensor> =
                (1..4).map(|size| Tensor::ones([size], (Kind::Float, Device::Cpu)).set_requires_grad(true)).collect();
            let loss = |factor: f64| {
                let sums = parameters.iter().map(|parameter| (parameter * factor).square().sum(Kind::Float));
                sums.reduce(|sum, part| sum + part).expect("there are parameters")
            };
            loss(0.0).backward();
            let mut reducer = Reducer::new(group, &parameters).expect("all are here");
            let mut steps = Vec::new();
            for step in 0..3 {
                // Of two passes only the second is waited for.
                loss(1.0 + rank).backward();
                reducer.begin_pass().expect("none is under way");
                loss(f64::from(step)).backward();
                reducer.end_pass().expect("every parameter has a gradient");
                steps.push(parameters.iter().flat_map(|parameter| numbers(&parameter.grad())).collect::<Vec<f64>>());
                parameters.iter().for_each(|parameter| drop(parameter.grad().zero_()));
            }
            steps
        });
        // Each rank's 2·f², of both passes, added up.
        let expected = |step: f64| vec![2.0 * (1.0 + 4.0 + 2.0 * step * step); 6];
        let expected: Vec<_> = [0.0, 1.0, 2.0].map(expected).into();
        assert_eq!(found, [expected.clone(), expected]);
    }

    /// Of three numbers or more the sum depends on their order, which follows their place in a bucket.
    #[test]
    fn every_pass_of_every_reducer_adds_up_in_the_same_order() {
        let found = among(3, |_, group| {
            // Several buckets: the first holds 1 MiB, the others 25.
            let sizes = [70_001i64, 300_007, 9, 150_003, 7_000_001, 31];
            let leaf = |size: &i64| Tensor::ones([*size], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            let parameters: Vec<Tensor> = sizes.iter().map(leaf).collect();
            let factor = |size: i64| {
                let numbers = Tensor::arange(size, (Kind::Float, Device::Cpu)) * 0.7 + group.rank() as f64 * 1.3;
                numbers.sin() * 10f64.powi(group.rank() as i32)
            };
            let factors: Vec<Tensor> = sizes.iter().map(|&size| factor(size)).collect();
            let pass = |reducer: &mut Reducer| {
                reducer.begin_pass().expect("none is under way");
                let parts = parameters.iter().zip(&factors).map(|(parameter, factor)| parameter.dot(factor));
                parts.reduce(|sum, part| sum + part).expect("there are parameters").backward();
                reducer.end_pass().expect("every parameter has a gradient");
                let sums: Vec<Tensor> = parameters.iter().map(|parameter| parameter.grad().copy()).collect();
                parameters.iter().for_each(|parameter| drop(parameter.grad().zero_()));
                sums
            };
            let order = || [3, 0, 5, 1, 4, 2].map(|place: usize| parameters[place].shallow_clone());
            let mut passes = Vec::new();
            for count in [3, 2] {
                let mut reducer = Reducer::new(group, &order()).expect("all are here");
                passes.extend((0..count).map(|_| pass(&mut reducer)));
            }
            let differs = |sums: &Vec<Tensor>| passes[0].iter().zip(sums).any(|(first, other)| !first.equal(other));
            passes.iter().map(differs).collect::<Vec<bool>>()
        });
        assert_eq!(found, vec![vec![false; 5]; 3]);
    }

    #[test]
    fn a_parameter_without_a_gradient_is_told() {
        let found = among(2, |_, group| {
            let parameters: Vec<Tensor> =
                (1..3).map(|size| Tensor::ones([size], (Kind::Float, Device::Cpu)).set_requires_grad(true)).collect();
            let mut reducer = Reducer::new(group, &parameters).expect("all are here");
            reducer.begin_pass().expect("none is under way");
            parameters[0].sum(Kind::Float).backward();
            let error = reducer.end_pass().expect_err("one has none").to_string();
            // It waits for what does not come, and is not to be waited for.
            std::mem::forget(reducer);
            error
        });
        assert!(found.iter().all(|error| error.contains("did not")), "{found:?}");
    }

    #[test]
    fn a_store_that_is_not_there_is_an_error_in_time() {
        let address =
            StoreAddress { host: "127.0.0.1".into(), port: 1, prefix: String::new(), timeout: Duration::from_secs(1) };
        let error = Store::connect(&address, false).expect_err("nobody hosts it").to_string();
        assert!(error.contains("127.0.0.1"), "{error}");
    }
}
