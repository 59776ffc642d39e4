-- Counts one request with every limit if each allows it, else with none; says the tightest window.
-- Or settles what one has cost that was counted before.
--
-- KEYS   one a limit, all in one slot
-- ARGV   the time in seconds, empty for the store's own; the cost; what to do: 'hit', 'reserve', or with the
--        time of a reservation to settle it, the cost then being the difference; then kind, amount and period
--        of each limit
-- reply  {limit, remaining, reset_after, retry_after}, the last two as texts; of a reservation its time too;
--        of a settlement nothing
--
-- The arithmetic is that of asgi_gateway/policies/window.py, line for line; a test holds them together.

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local cost = tonumber(ARGV[2])
local taken_at = tonumber(ARGV[3])

local function milliseconds(seconds)
  return string.format('%d', math.ceil(seconds * 1000) + 1000)
end

local fixed_window = {
  read = function(self)
    local kept = redis.call('GET', self.key)
    self.count, self.ends_at = 0, 0
    if kept then self.count, self.ends_at = cmsgpack.unpack(kept) end
    if now >= self.ends_at then self.count = 0 end
    return self.count + cost <= self.limit
  end,
  add = function(self)
    if self.count == 0 then self.ends_at = now + self.period end
    self.count = math.max(0, self.count + cost)
    local left = milliseconds(self.ends_at - now)
    redis.call('SET', self.key, cmsgpack.pack(self.count, self.ends_at), 'PX', left)
  end,
  report = function(self, allowed)
    local left = math.max(0, self.ends_at - now)
    local wait = left
    if allowed then wait = 0 elseif cost > self.limit then wait = math.huge end
    return {self.limit, math.max(0, self.limit - self.count), left, wait}
  end,
}

local function free_after(self, much)
  if much > self.limit then return math.huge end
  local room = self.limit - much + 1 - self.current
  if room > 0 then
    if self.previous == 0 then return -math.huge end
    return self.ends_at - self.period * room / self.previous
  end
  return self.ends_at + self.period - self.period * (self.limit - much + 1) / self.current
end

local function index_of(time, period)
  return math.floor((time - math.fmod(time, period)) / period + 0.5)
end

local sliding_window
sliding_window = {
  read = function(self)
    local kept = redis.call('GET', self.key)
    local index = index_of(now, self.period)
    local of = index
    self.previous, self.current, self.index = 0, 0, index
    if kept then self.previous, self.current, of = cmsgpack.unpack(kept) end
    if of ~= index then
      self.previous = of == index - 1 and self.current or 0
      self.current = 0
    end
    self.ends_at = (index + 1) * self.period
    self.free_after = free_after(self, cost)
    return now > self.free_after
  end,
  add = function(self)
    self.current = math.max(0, self.current + cost)
    sliding_window.keep(self)
  end,
  keep = function(self)
    local kept = cmsgpack.pack(self.previous, self.current, self.index)
    redis.call('SET', self.key, kept, 'PX', milliseconds(2 * self.period))
  end,
  report = function(self, allowed)
    local used = math.floor(self.previous * (self.ends_at - now) / self.period) + self.current
    local reset = math.max(0, free_after(self, self.limit) - now)
    local wait = allowed and 0 or self.free_after - now + 0.000001
    return {self.limit, math.max(0, self.limit - used), reset, wait}
  end,
}

-- A list of the count, then the time and the cost of each hit, the oldest first.
local function at(self, place)
  return redis.call('LINDEX', self.key, place)
end

-- How far the hits go that are over, which are taken off the count, and whether any is left. They are looked at in
-- pieces, as a burst may be over all at once; the first is small, as most often one is over or none.
local function expired(self)
  local over, much = 0, 2
  while true do
    local hits = redis.call('LRANGE', self.key, over + 1, over + much)
    if #hits == 0 then return over, false end
    for place = 1, #hits, 2 do
      if now < tonumber(hits[place]) + self.period then return over, true end
      over = over + 2
      self.count = self.count - hits[place + 1]
    end
    much = math.min(2 * much, 512)
  end
end

local moving_window = {
  read = function(self)
    self.count = tonumber(at(self, 0) or 0)
    local over, left = expired(self)
    if over > 0 and not left then
      redis.call('DEL', self.key)
    elseif over > 0 then
      redis.call('LTRIM', self.key, over, -1) -- the last cost that is over stands in the count's place now
      redis.call('LSET', self.key, 0, self.count)
    end
    return self.count + cost <= self.limit
  end,
  add = function(self)
    local last = self.count > 0 and at(self, -2)
    self.count = self.count + cost
    self.last = now
    if not last then
      redis.call('RPUSH', self.key, self.count, string.format('%.17g', now), cost)
    else
      if tonumber(last) == now then
        redis.call('LSET', self.key, -1, at(self, -1) + cost)
      else
        redis.call('RPUSH', self.key, string.format('%.17g', now), cost)
      end
      redis.call('LSET', self.key, 0, self.count)
    end
    redis.call('PEXPIRE', self.key, milliseconds(self.period))
  end,
  report = function(self, allowed)
    local wait, reset = 0, 0
    if self.count > 0 then reset = tonumber(self.last or at(self, -2)) + self.period - now end
    if not allowed then
      wait = math.huge
      local excess, place = self.count + cost - self.limit, 0
      while cost <= self.limit and excess > 0 do
        place = place + 2
        excess = excess - at(self, place)
        wait = tonumber(at(self, place - 1)) + self.period - now
      end
    end
    return {self.limit, math.max(0, self.limit - self.count), reset, wait}
  end,
}

local kinds = {fixed_window = fixed_window, sliding_window = sliding_window, moving_window = moving_window}

local function tighter(one, other)
  if one[4] > 0 or other[4] > 0 then return one[4] >= other[4] and one or other end
  if one[2] ~= other[2] then return one[2] < other[2] and one or other end
  return one[3] >= other[3] and one or other
end

local counters, fits = {}, true
for place, key in ipairs(KEYS) do
  local counter = {key = key, limit = tonumber(ARGV[3 * place + 2]), period = tonumber(ARGV[3 * place + 3])}
  counter.kind = kinds[ARGV[3 * place + 1]]
  -- Each is asked alone, for what one allows another may refuse.
  counter.fits = counter.kind.read(counter)
  fits = fits and counter.fits
  counters[place] = counter
end

if taken_at then
  local give_back = {
    [fixed_window] = function(self)
      if now < self.ends_at and self.ends_at <= taken_at + self.period then fixed_window.add(self) end
    end,
    [sliding_window] = function(self)
      local taken_in = index_of(taken_at, self.period)
      if taken_in == self.index then
        sliding_window.add(self)
      elseif taken_in == self.index - 1 then
        self.previous = math.max(0, self.previous + cost)
        sliding_window.keep(self)
      end
    end,
    [moving_window] = function(self)
      local low, high = 1, redis.call('LLEN', self.key)
      while low < high do
        local middle = low + 2 * math.floor((high - low) / 4)
        if tonumber(at(self, middle)) < taken_at then low = middle + 2 else high = middle end
      end
      if tonumber(at(self, low) or math.huge) ~= taken_at then return end
      local taken = tonumber(at(self, low + 1))
      local left = math.max(0, taken + cost)
      redis.call('LSET', self.key, low + 1, left)
      redis.call('LSET', self.key, 0, self.count - taken + left)
      if left == 0 and self.count == taken then
        redis.call('DEL', self.key)
      elseif left == 0 then
        redis.call('LSET', self.key, low, 'none')
        redis.call('LSET', self.key, low + 1, 'none')
        redis.call('LREM', self.key, 2, 'none')
      end
    end,
  }
  for _, counter in ipairs(counters) do
    local settle = cost > 0 and counter.kind.add or give_back[counter.kind]
    settle(counter)
  end
  return
end

local tightest
for _, counter in ipairs(counters) do
  if fits then counter.kind.add(counter) end
  local window = counter.kind.report(counter, counter.fits)
  tightest = tightest and tighter(tightest, window) or window
end
local limit, remaining, reset_after, retry_after = unpack(tightest)
local reply = {limit, remaining, string.format('%.17g', reset_after), string.format('%.17g', retry_after)}
if ARGV[3] == 'reserve' then reply[5] = string.format('%.17g', now) end
return reply
