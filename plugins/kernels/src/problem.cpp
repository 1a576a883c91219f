#include <algorithm>
#include <initializer_list>

#include "plan.h"

namespace mpq {
namespace {

constexpr int64_t kMaxBytes = INT32_MAX;
constexpr int32_t kMaxExtent = 4096;
constexpr int64_t kMaxColumns = INT32_MAX / (255 * 127);
constexpr int64_t kMaxGridSide = 65535;
constexpr int32_t kMaxMultiprocessors = 1 << 16;
constexpr size_t kAlignment = 256;
constexpr size_t kWordsAlignment = 16;
constexpr int kMaxSplits = 16;
constexpr int kMinSplitBlocks = 4;  // of columns: fewer are not worth a thread block's prologue
constexpr int kMinSmallSplitBlocks = 8;  // one for each warp

int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }
int64_t padded(int64_t value, int64_t to) { return divided_up(value, to) * to; }

bool within(const int32_t* values, int count, int32_t least, int32_t most) {
  return std::all_of(values, values + count,
                     [&](int32_t value) { return value >= least && value <= most; });
}

// Null, too, is aligned.
bool aligned(std::initializer_list<const void*> pointers, size_t to) {
  return std::all_of(pointers.begin(), pointers.end(),
                     [&](auto* one) { return reinterpret_cast<uintptr_t>(one) % to == 0; });
}

bool plausible(const MpqLayer& layer) {
  if (layer.group < 1 || layer.rows < 1 || layer.channels < 1) return false;
  if (layer.rows % layer.group != 0 || layer.channels % layer.group != 0) return false;
  if (layer.max_planes < 1 || layer.max_planes > kMaxPlanes) return false;
  // Each by itself first, so that their sum is within int32.
  if (!within(&layer.act_bits, 1, 2, 8) || !within(&layer.top_shift, 1, 0, 6)) return false;
  if (layer.act_bits + layer.top_shift > 8) return false;
  // A linear layer is the 1 x 1 convolution of one line.
  const bool linear = layer.linear != 0;
  const int32_t most = linear ? 1 : kMaxExtent;
  if (!within(layer.kernel_shape, 2, 1, most) || !within(layer.strides, 2, 1, most)) return false;
  if (!within(layer.pads, 4, 0, linear ? 0 : most)) return false;
  if (!within(layer.dilations, 2, 1, most) || !within(&layer.group, 1, 1, linear ? 1 : INT32_MAX)) {
    return false;
  }
  const int64_t taps = int64_t{layer.kernel_shape[0]} * layer.kernel_shape[1];
  return taps * (layer.channels / layer.group) <= kMaxColumns;
}

int64_t output_side(int64_t side, int32_t kernel, int32_t stride, int32_t dilation) {
  const int64_t reach = int64_t{dilation} * (kernel - 1) + 1;
  return side < reach ? 0 : (side - reach) / stride + 1;
}

// More splits as long as multiprocessors would stay idle.
int32_t splits_for(int64_t tiles, int64_t blocks, int32_t wanted, int min_blocks) {
  const int64_t most = std::min<int64_t>(kMaxSplits, std::max<int64_t>(1, blocks / min_blocks));
  return static_cast<int32_t>(std::clamp<int64_t>(wanted / tiles, 1, most));
}

// Whether four tiles at a time leave no more than one warp in eight without rows.
bool fills_four_tiles(const Problem& problem) {
  return 7 * padded(problem.group_tiles, 4) <= 8 * int64_t{problem.group_tiles};
}

Cut cut_for(const Problem& problem, int64_t tiles, int32_t multiprocessors) {
  if (problem.pixels <= kSmallPixels) {
    const int32_t pixels = problem.pixels <= 8 ? 8 : problem.pixels <= 16 ? 16 : kSmallPixels;
    const int32_t splits =
        splits_for(tiles, problem.blocks, 2 * multiprocessors, kMinSmallSplitBlocks);
    return {pixels, 1, splits};
  }
  const auto thread_blocks = [&](int32_t pixels, int32_t block_tiles) {
    return problem.layer.group * divided_up(problem.group_tiles, block_tiles) *
           divided_up(problem.pixels, pixels);
  };
  if (problem.layer.max_planes <= kFewPlanes) {
    if (fills_four_tiles(problem) && thread_blocks(128, 4) >= multiprocessors) return {128, 4, 1};
    if (thread_blocks(128, 2) >= multiprocessors) return {128, 2, 1};
  }
  const int64_t narrow = thread_blocks(64, 4);
  return {64, 4, splits_for(narrow, problem.blocks, 2 * multiprocessors, kMinSplitBlocks)};
}

class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(int64_t count) {
    char* begin = base_ == nullptr ? nullptr : base_ + size_;
    size_ += static_cast<size_t>(padded(count * sizeof(T), kAlignment));
    return reinterpret_cast<T*>(begin);
  }

  size_t size() const { return size_; }

 private:
  char* base_;
  size_t size_ = 0;
};

}  // namespace

int describe(const MpqLayer& layer, const MpqCall& call, Problem& problem) {
  if (!plausible(layer)) return MPQ_BAD_LAYER;
  if (call.batch < 1 || call.height < 1 || call.width < 1) return MPQ_BAD_CALL;
  if (layer.linear != 0 && (call.batch != 1 || call.height != 1)) return MPQ_BAD_CALL;
  if (call.multiprocessors < 1 || call.multiprocessors > kMaxMultiprocessors) return MPQ_BAD_CALL;
  problem.layer = layer;
  problem.call = call;
  const int32_t *kernel = layer.kernel_shape, *stride = layer.strides, *pad = layer.pads;
  const int64_t height = int64_t{call.height} + pad[0] + pad[2];
  const int64_t width = int64_t{call.width} + pad[1] + pad[3];
  const int64_t out_height = output_side(height, kernel[0], stride[0], layer.dilations[0]);
  const int64_t out_width = output_side(width, kernel[1], stride[1], layer.dilations[1]);
  if (out_height < 1 || out_width < 1) return MPQ_BAD_CALL;

  problem.group_channels = layer.channels / layer.group;
  const int64_t group_bytes = padded(problem.group_channels, kChunk);
  const int64_t pixel_bytes = group_bytes * layer.group;
  if (pixel_bytes > kMaxBytes || height * width > kMaxBytes) return MPQ_TOO_LARGE;
  if (call.batch > kMaxBytes / (height * width)) return MPQ_TOO_LARGE;
  const int64_t padded_pixels = call.batch * height * width;
  if (padded_pixels > kMaxBytes / pixel_bytes) return MPQ_TOO_LARGE;
  problem.group_bytes = static_cast<int32_t>(group_bytes);
  problem.pixel_bytes = static_cast<int32_t>(pixel_bytes);
  problem.padded_height = static_cast<int32_t>(height);
  problem.padded_width = static_cast<int32_t>(width);
  problem.padded_pixels = static_cast<int32_t>(padded_pixels);
  problem.out_height = static_cast<int32_t>(out_height);
  problem.out_width = static_cast<int32_t>(out_width);
  problem.image_pixels = static_cast<int32_t>(out_height * out_width);
  problem.pixels = call.batch * problem.image_pixels;
  problem.channels_adjacent = layer.linear != 0 || call.channels_last != 0;
  problem.pixel_stride = problem.channels_adjacent ? layer.rows : 1;
  problem.channel_stride = problem.channels_adjacent ? 1 : problem.image_pixels;
  const size_t pair_bytes = call.float16 != 0 ? 4 : 8;
  problem.paired = !problem.channels_adjacent && problem.image_pixels % 2 == 0 &&
                   reinterpret_cast<uintptr_t>(call.y) % pair_bytes == 0;

  const int64_t taps = int64_t{kernel[0]} * kernel[1];
  problem.blocks = static_cast<int32_t>(divided_up(taps * group_bytes, kBlockColumns));
  problem.group_rows = layer.rows / layer.group;
  problem.group_tiles = static_cast<int32_t>(divided_up(problem.group_rows, kTileRows));
  const int64_t tiles = int64_t{problem.group_tiles} * layer.group;
  if (tiles > kMaxBytes / kTileRows) return MPQ_TOO_LARGE;
  problem.padded_rows = static_cast<int32_t>(tiles * kTileRows);
  problem.offset_form = layer.act_bits + layer.top_shift > 7;

  problem.cut = cut_for(problem, tiles, call.multiprocessors);
  problem.pixel_tiles = static_cast<int32_t>(divided_up(problem.pixels, problem.cut.pixels));
  if (problem.pixel_tiles > kMaxGridSide) return MPQ_TOO_LARGE;
  if (int64_t{layer.group} * problem.cut.splits > kMaxGridSide) return MPQ_TOO_LARGE;
  const Cut& cut = problem.cut;
  const int64_t outputs =
      layer.group * divided_up(problem.group_tiles, cut.tiles) * problem.pixel_tiles;
  problem.ticket_count = static_cast<int32_t>(cut.splits > 1 ? outputs : 0);
  Arena arena(call.workspace);
  problem.activations = arena.take<int8_t>(padded_pixels * pixel_bytes);
  problem.chunk_offsets = arena.take<int32_t>(int64_t{problem.blocks} * kBlockChunks);
  problem.tickets = arena.take<uint32_t>(problem.ticket_count);
  problem.partials = arena.take<int32_t>(int64_t{problem.ticket_count} * cut.splits * cut.tiles *
                                         kTileRows * cut.pixels);
  problem.workspace_bytes = arena.size();
  return MPQ_OK;
}

int prepare(const MpqLayer* layer, const MpqCall* call, Problem& problem) {
  if (layer == nullptr || call == nullptr) return MPQ_BAD_CALL;
  const int status = describe(*layer, *call, problem);
  if (status != MPQ_OK) return status;
  const std::initializer_list<const void*> pointers = {layer->words,
                                                       layer->tile_begins,
                                                       layer->steps,
                                                       layer->scale,
                                                       layer->bias,
                                                       layer->row_sums,
                                                       layer->output_rows,
                                                       layer->act_scale,
                                                       layer->act_zero_point,
                                                       layer->input_factor,
                                                       layer->input_shift,
                                                       call->x,
                                                       call->y,
                                                       call->step_index,
                                                       call->workspace};
  if (std::any_of(pointers.begin(), pointers.end(), [](auto* one) { return one == nullptr; })) {
    return MPQ_BAD_CALL;
  }
  const size_t element = call->float16 != 0 ? 2 : 4;
  if (!aligned({call->workspace}, kAlignment) || !aligned({layer->words}, kWordsAlignment) ||
      !aligned({call->x, call->y, call->residual}, element)) {
    return MPQ_BAD_CALL;
  }
  return call->workspace_bytes < problem.workspace_bytes ? MPQ_SMALL_WORKSPACE : MPQ_OK;
}

}  // namespace mpq

size_t mpq_workspace_bytes(const MpqLayer* layer, const MpqCall* call) {
  mpq::Problem problem;
  if (layer == nullptr || call == nullptr) return 0;
  return mpq::describe(*layer, *call, problem) == MPQ_OK ? problem.workspace_bytes : 0;
}
