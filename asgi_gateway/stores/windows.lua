-- Counts one request with every limit if each allows it, else with none; says the tightest window.
--
-- KEYS   one a limit, all in one slot
-- ARGV   the time in seconds, empty for the store's own; the cost; then kind, amount and period of each limit
-- reply  {limit, remaining, reset_after, retry_after}, the last two as texts
--
-- The arithmetic is that of asgi_gateway/policies/window.py, line for line; a test holds them together.

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local cost = tonumber(ARGV[2])

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
    self.count = self.count + cost
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

local sliding_window = {
  read = function(self)
    local kept = redis.call('GET', self.key)
    local index = math.floor((now - math.fmod(now, self.period)) / self.period + 0.5)
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
    self.current = self.current + cost
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

local moving_window = {
  read = function(self)
    local oldest = redis.call('LINDEX', self.key, 0)
    while oldest and now >= tonumber(oldest) + self.period do
      redis.call('LPOP', self.key)
      oldest = redis.call('LINDEX', self.key, 0)
    end
    self.count = redis.call('LLEN', self.key)
    return self.count + cost <= self.limit
  end,
  add = function(self)
    local time = string.format('%.17g', now)
    for _ = 1, cost do redis.call('RPUSH', self.key, time) end
    redis.call('PEXPIRE', self.key, milliseconds(self.period))
    self.count = self.count + cost
  end,
  report = function(self, allowed)
    local wait, reset = 0, 0
    if not allowed then
      wait = math.huge
      if cost <= self.limit then
        local first = redis.call('LINDEX', self.key, self.count + cost - self.limit - 1)
        wait = tonumber(first) + self.period - now
      end
    end
    if self.count > 0 then reset = tonumber(redis.call('LINDEX', self.key, -1)) + self.period - now end
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
  local counter = {key = key, limit = tonumber(ARGV[3 * place + 1]), period = tonumber(ARGV[3 * place + 2])}
  counter.kind = kinds[ARGV[3 * place]]
  -- Each is asked alone, for what one allows another may refuse.
  counter.fits = counter.kind.read(counter)
  fits = fits and counter.fits
  counters[place] = counter
end

local tightest
for _, counter in ipairs(counters) do
  if fits then counter.kind.add(counter) end
  local window = counter.kind.report(counter, counter.fits)
  tightest = tightest and tighter(tightest, window) or window
end
return {tightest[1], tightest[2], string.format('%.17g', tightest[3]), string.format('%.17g', tightest[4])}
