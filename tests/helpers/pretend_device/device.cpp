// A device that computes on the CPU and refuses what a GPU refuses: tensors of two places in one operation, and
// generators of another place. Its memory is the CPU's. An operation looks at its arguments, sees their memory as
// CPU tensors, runs the CPU's kernel, and brings what is new back. Views and copies are the device's own.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace {

using at::IntArrayRef;
using at::Tensor;
using c10::Stream;

constexpr auto kKind = c10::DeviceType::PrivateUse1;
const c10::Device kPlace(kKind, 0);
const c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

// ---------------------------------------------------------------- what torch asks of a backend

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    void* data = n ? std::malloc(n) : nullptr;
    return {data, data, &std::free, kPlace};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, std::size_t n) const override { default_copy_data(to, from, n); }
};
Memory memory;
REGISTER_ALLOCATOR(kKind, &memory);

// One device, one stream, and nothing to wait for.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  static Stream only() { return Stream(Stream::DEFAULT, kPlace); }
  c10::DeviceType type() const override { return kKind; }
  c10::Device exchangeDevice(c10::Device) const override { return kPlace; }
  c10::Device getDevice() const override { return kPlace; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  Stream getStream(c10::Device) const noexcept override { return only(); }
  Stream getDefaultStream(c10::Device) const override { return only(); }
  Stream getNewStream(c10::Device, int) const override { return only(); }
  Stream exchangeStream(Stream) const noexcept override { return only(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

// A generator of the device, which draws from one of the CPU.
struct Draws final : c10::GeneratorImpl {
  explicit Draws(at::Generator inner) : c10::GeneratorImpl(kPlace, kKeys), inner_(std::move(inner)) {}
  void set_current_seed(uint64_t seed) override { inner_.set_current_seed(seed); }
  void set_offset(uint64_t) override { TORCH_CHECK(false, "no offset"); }
  uint64_t get_offset() const override { TORCH_CHECK(false, "no offset"); }
  uint64_t current_seed() const override { return inner_.current_seed(); }
  uint64_t seed() override { return inner_.seed(); }
  void set_state(const c10::TensorImpl& state) override { inner_.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return inner_.unsafeGetGeneratorImpl()->get_state();
  }
  Draws* clone_impl() const override { return new Draws(inner_.clone()); }
  at::Generator inner_;
};

struct Hooks final : at::PrivateUse1HooksInterface {
  Hooks() : default_(at::make_generator<Draws>(at::detail::createCPUGenerator(0))) {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return default_; }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<Draws>(at::detail::createCPUGenerator());
  }
  c10::Device getDeviceFromPtr(void*) const override { return kPlace; }
  bool isPinnedPtr(const void*) const override { return false; }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::DeviceType::CPU); }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t size) const override {
    auto fresh = memory.allocate(size);
    if (auto kept = std::min(size, storage.nbytes())) std::memcpy(fresh.get(), storage.data(), kept);
    auto& changed = const_cast<c10::Storage&>(storage);
    changed.set_data_ptr_noswap(std::move(fresh));
    changed.unsafeGetStorageImpl()->set_nbytes(size);
  }
  at::Generator default_;
};

const Hooks& hooks() {
  static Hooks* one = [] {
    auto* made = new Hooks();
    at::RegisterPrivateUse1HooksInterface(made);
    return made;
  }();
  return *one;
}
const auto& registered = hooks();

// ---------------------------------------------------------------- the same memory, seen from the CPU and back

bool is_here(const Tensor& t) { return t.defined() && t.device().type() == kKind; }

Tensor seen(const Tensor& t) {
  if (!is_here(t)) return t;
  Tensor base = t.is_conj() || t.is_neg() ? t.resolve_conj().resolve_neg() : t;
  void* data = base.numel() ? const_cast<void*>(base.const_data_ptr()) : nullptr;
  auto keeps_it = [base](void*) {};
  return at::from_blob(data, base.sizes(), base.strides(), keeps_it, t.options().device(c10::kCPU), c10::kCPU);
}

Tensor brought(const Tensor& t) {
  if (!t.defined() || t.device().type() != c10::kCPU) return t;
  Tensor made = t.is_non_overlapping_and_dense()
      ? Tensor(at::detail::empty_strided_generic(t.sizes(), t.strides(), &memory, kKeys, t.scalar_type()))
      : Tensor(at::detail::empty_generic(t.sizes(), &memory, kKeys, t.scalar_type(), std::nullopt));
  seen(made).copy_(t);
  return made;
}

at::Generator inner(const at::Generator& generator) {
  return static_cast<Draws*>(generator.unsafeGetGeneratorImpl())->inner_;
}

// ---------------------------------------------------------------- any operation

// Numbers may come from the CPU as tensors without dimensions, and so may the indices of an indexing.
void check(const Tensor& t, const std::string& operation, size_t position) {
  bool indexing = operation == "aten::index" || operation.find("index_put") != std::string::npos;
  TORCH_CHECK(
      !t.defined() || is_here(t) || t.dim() == 0 || (indexing && position == 1),
      "Expected all tensors to be on the same device, but ", operation, " got one of shape ", t.sizes(), " on ",
      t.device());
}

void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto& name = schema.name();
  const auto n = schema.arguments().size();
  const auto begin = stack->size() - n;
  auto given = torch::jit::last(*stack, n).vec();
  std::vector<std::pair<Tensor, Tensor>> outs;  // of the device -> a stand-in, which may be resized
  for (size_t i = 0; i < n; ++i) {
    const auto& argument = schema.arguments()[i];
    auto& value = (*stack)[begin + i];
    auto taken = [&](const Tensor& t) {
      check(t, name, i);
      return seen(t);
    };
    if (value.isTensor()) {
      auto t = value.toTensor();
      if (argument.is_out() && is_here(t)) {
        outs.emplace_back(t, at::empty_strided(t.sizes(), t.strides(), t.options().device(c10::kCPU)));
        value = outs.back().second;
      } else {
        value = taken(t);
      }
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) list.push_back(taken(t));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (std::optional<Tensor> t : value.toOptionalTensorList())
        list.push_back(t ? std::optional(taken(*t)) : std::nullopt);
      value = list;
    } else if (value.isDevice()) {
      value = c10::Device(c10::kCPU);
    } else if (value.isGenerator()) {
      auto generator = value.toGenerator();
      TORCH_CHECK(generator.device().type() == kKind, name, " got a generator on ", generator.device());
      value = inner(generator);
    } else if (value.isNone() && argument.type()->str().find("Generator") != std::string::npos) {
      value = inner(hooks().default_);
    }
  }
  op.callBoxed(stack);
  for (auto& [t, made] : outs) {
    if (t.sizes() != made.sizes()) t.resize_(made.sizes());
    seen(t).copy_(made);
  }
  const auto& returns = schema.returns();
  const auto first = stack->size() - returns.size();
  for (size_t i = 0; i < returns.size(); ++i) {
    auto& value = (*stack)[first + i];
    const auto* alias = returns[i].alias_info();
    if (alias && alias->isWrite()) {  // an argument that was changed in place
      for (size_t j = 0; j < n; ++j) {
        const auto* other = schema.arguments()[j].alias_info();
        if (other && other->isWrite() && other->beforeSets() == alias->beforeSets()) value = given[j];
      }
      continue;
    }
    TORCH_CHECK(!alias, name, " returns a view, which this device would have to make itself");
    if (value.isTensor()) {
      value = brought(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) list.push_back(brought(t));
      value = list;
    }
  }
}

// ---------------------------------------------------------------- memory, views and copies

Tensor empty(
    IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, kKeys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    IntArrayRef size, IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, kKeys, c10::dtype_or_default(dtype));
}

Tensor& copy_(Tensor& self, const Tensor& source, bool) {
  seen(self).copy_(seen(source));
  return self;
}

Tensor copy_from(const Tensor& self, const Tensor& to, bool) {
  seen(to).copy_(seen(self));
  return to;
}

const Tensor& resize_(const Tensor& self, IntArrayRef size, std::optional<at::MemoryFormat> format) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  size_t need = (self.storage_offset() + self.numel()) * self.itemsize();
  if (need > self.storage().nbytes()) hooks().resizePrivateUse1Bytes(self.storage(), need);
  if (format) impl->empty_tensor_restride(*format);
  return self;
}

Tensor& set_part(Tensor& self, at::Storage source, int64_t offset, IntArrayRef size, IntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_sizes_and_strides(size, stride, offset);
  return self;
}

Tensor& set_storage(Tensor& self, at::Storage source) {
  int64_t n = source.nbytes() / self.itemsize();
  return set_part(self, std::move(source), 0, n, 1);
}

Tensor& set_tensor(Tensor& self, const Tensor& source) {
  return set_part(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

Tensor& set_nothing(Tensor& self) {
  c10::Storage nothing(c10::Storage::use_byte_size_t(), 0, memory.allocate(0), &memory, true);
  return set_part(self, std::move(nothing), 0, {0}, {1});
}

at::Scalar number(const Tensor& self) { return seen(self).item(); }

Tensor as_strided(const Tensor& self, IntArrayRef size, IntArrayRef stride, std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

// ---------------------------------------------------------------- convolutions, which torch leaves to the backend

Tensor convolution(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef stride,
    IntArrayRef padding, IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups) {
  auto b = bias.value_or(Tensor());
  for (const auto& t : {x, weight, b}) check(t, "aten::convolution", 0);
  auto added = b.defined() ? std::optional(seen(b)) : std::nullopt;
  return brought(at::convolution(
      seen(x), seen(weight), added, stride, padding, dilation, transposed, output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& x, const Tensor& weight, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups, std::array<bool, 3> mask) {
  for (const auto& t : {gradient, x, weight}) check(t, "aten::convolution_backward", 0);
  std::vector<int64_t> bias{transposed ? weight.size(1) * groups : weight.size(0)};
  auto [a, b, c] = at::convolution_backward(
      seen(gradient), seen(x), seen(weight), bias, stride, padding, dilation, transposed, output_padding, groups,
      mask);
  return {brought(a), brought(b), brought(c)};
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("copy_", &copy_);
  m.impl("_copy_from", &copy_from);
  m.impl("resize_", &resize_);
  m.impl("set_", &set_nothing);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("set_.source_Storage_storage_offset", &set_part);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("_local_scalar_dense", &number);
  m.impl("as_strided", &as_strided);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("view_as_complex", &at::native::view_as_complex);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
}

}  // namespace
