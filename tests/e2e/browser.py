"""Airflow's UI in headless Chromium, driven as a person would: by what is written on the page."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

T = TypeVar("T")
CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1500,1000",
)  # fmt: skip
PATIENCE_SECONDS = 120


class Browser:
    """One user's window."""

    def __init__(self, url: str, pictures: Path) -> None:
        self.url = url
        self.pictures = pictures
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in QUIET:
            options.add_argument(argument)
        service = webdriver.ChromeService(DRIVER, env={**os.environ, "no_proxy": "127.0.0.1"})
        self.driver = webdriver.Chrome(options=options, service=service)

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()

    def log_in(self, user: str, password: str) -> None:
        """Log in by the form."""
        self.open("/auth/login")
        self.find("input[name=username]").send_keys(user)
        self.find("input[name=password]").send_keys(password)
        self.find("button[type=submit]").click()
        self.wait_for_text("Welcome")

    def open(self, path: str) -> None:
        """Go to a path of the UI, or to a whole address of it."""
        self.driver.get(path if path.startswith("http") else self.url + path)

    def rest(self) -> None:
        """Show nothing: an open page of the UI asks and draws all the time, which costs a quarter of a core."""
        self.driver.get("about:blank")

    def find(self, selector: str) -> WebElement:
        """The first visible element for a CSS selector, once there is one."""
        return self._wait(
            lambda driver: next((e for e in driver.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()), None),
            f"nothing matches {selector}",
        )

    def button(self, text: str, *, last: bool = False) -> WebElement:
        """The enabled button that says so; the last of several on request."""

        def look(driver: webdriver.Chrome) -> WebElement | None:
            found = [
                e for e in driver.find_elements(By.TAG_NAME, "button") if e.text.strip() == text and e.is_enabled()
            ]
            return (found[-1] if last else found[0]) if found else None

        return self._wait(look, f"no button '{text}' can be pressed")

    def has_button(self, text: str, *, enabled: bool) -> bool:
        """Whether the last button that says so comes to be one that can be pressed, or that cannot."""

        def look(driver: webdriver.Chrome) -> bool:
            found = [each for each in driver.find_elements(By.TAG_NAME, "button") if each.text.strip() == text]
            return bool(found) and found[-1].is_enabled() is enabled

        return self._wait(look, f"button '{text}' never is {'enabled' if enabled else 'disabled'}")

    def fill(self, name: str, text: str) -> None:
        """Type into the form's field of that parameter."""
        field = self.find(f"[name=element_{name}]")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.send_keys(text)

    def choose(self, text: str) -> None:
        """Click the label that begins so: one choice of several."""
        self._wait(
            lambda driver: next(
                (e for e in driver.find_elements(By.TAG_NAME, "label") if e.text.startswith(text)), None
            ),
            f"there is no choice '{text}'",
        ).click()

    def fill_date(self, label: str, date: str) -> None:
        """Give the date field of that label a day, as ``YYYY-MM-DD``, at midnight."""
        field = self._wait(
            lambda driver: next((e for e in driver.find_elements(By.TAG_NAME, "label") if e.text == label), None),
            f"there is no field '{label}'",
        )
        opener = field.find_element(By.XPATH, "..").find_element(By.CSS_SELECTOR, "[data-testid=datetime-input]")
        opener.click()
        for placeholder, text in (("YYYY/MM/DD", date.replace("-", "/")), ("HH:mm", "00:00")):
            typed = self.find(f"input[placeholder='{placeholder}']")
            typed.send_keys(Keys.CONTROL, "a")
            typed.send_keys(text, Keys.TAB)
        ActionChains(self.driver).send_keys(Keys.ESCAPE).perform()
        self._wait(
            lambda driver: not driver.find_elements(By.CSS_SELECTOR, "input[placeholder='HH:mm']"),
            "the field stays open",
        )

    def wait_for_text(self, pattern: str) -> str:
        """The page's text once it matches."""

        def look(driver: webdriver.Chrome) -> str | None:
            text = driver.find_element(By.TAG_NAME, "body").text
            return text if re.search(pattern, text) else None

        return self._wait(look, f"the page never says '{pattern}'")

    def picture(self, name: str) -> Path:
        """Keep the window as ``ui-<name>.png``."""
        path = self.pictures / f"ui-{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(path))
        return path

    def _wait(self, look: Callable[[webdriver.Chrome], T | None], complaint: str) -> T:
        # Elements go stale while the page renders anew, so any look may be repeated.
        waiting = WebDriverWait(self.driver, PATIENCE_SECONDS, ignored_exceptions=[WebDriverException])
        return cast("T", waiting.until(look, complaint))
